"""For whoever runs Aura: is it alive, can it serve, and numbers."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aura_control.api.request import services_of

__all__ = ["healthz", "metrics", "readyz"]


async def healthz(_request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The process can serve: its database answers."""
    try:
        async with services_of(request).database.reading() as tx:
            await tx.gauges.connections()
    except (SQLAlchemyError, OSError):
        return JSONResponse({"status": "unavailable", "database": "unavailable"}, status_code=503)
    return JSONResponse({"status": "ok", "database": "ok"})


async def metrics(request: Request) -> Response:
    """Prometheus' text format. It names no tenant, user or account."""
    services = services_of(request)
    async with services.database.reading() as tx:
        connections = await tx.gauges.connections()
        pending = await tx.gauges.pending_deliveries()
    text = services.metrics.render(
        connections={state.value: count for state, count in connections.items()},
        pending_deliveries=pending,
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)
