"""What the control plane counts. A registry of its own: nothing global, so apps can be several."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]


class Metrics:
    """The numbers of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aura_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "aura_http_request_seconds",
            "Seconds until a request was answered.",
            ["route"],
            registry=self._registry,
        )
        self._connections = Gauge(
            "aura_connections", "Connections by state.", ["state"], registry=self._registry
        )
        self._pending = Gauge(
            "aura_deliveries_pending",
            "What machines should hold and have not acknowledged.",
            registry=self._registry,
        )

    def answered(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request. ``route`` is the route's pattern: an address would be a new series
        for every id that somebody tries."""
        self._requests.labels(method=method, route=route, status=str(status)).inc()
        self._seconds.labels(route=route).observe(seconds)

    def render(self, *, connections: Mapping[str, int], pending_deliveries: int) -> bytes:
        """Prometheus' text format, with the present state of the database."""
        for state, count in connections.items():
            self._connections.labels(state=str(state)).set(count)
        self._pending.set(pending_deliveries)
        return generate_latest(self._registry)
