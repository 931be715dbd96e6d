"""For whoever runs Aura: is it alive, can it serve, and numbers."""

from __future__ import annotations

import hmac

from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aura_control.api.request import services_of
from aura_control.incoming import bearer
from aura_control.settings import Settings
from aura_core.errors import AuthenticationRequired

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
    """Prometheus' text format. It names no tenant, user or account, but tells how much is going on:
    on a public address it is for whoever has the operator's token."""
    services = services_of(request)
    _admit(request, services.settings)
    async with services.database.reading() as tx:
        connections = await tx.gauges.connections()
        pending = await tx.gauges.pending_deliveries()
    text = services.metrics.render(
        connections={state.value: count for state, count in connections.items()},
        pending_deliveries=pending,
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _admit(request: Request, settings: Settings) -> None:
    token = settings.metrics_token
    if token is None:
        if not settings.local:
            raise AuthenticationRequired(
                "Metrics are not open here.", hint="The operator sets AURA_METRICS_TOKEN."
            )
    elif not hmac.compare_digest(bearer(request).encode(), token.get_secret_value().encode()):
        raise AuthenticationRequired("Metrics need the operator's AURA_METRICS_TOKEN.")
