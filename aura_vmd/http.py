"""The daemon's HTTP: health, and the way in for messages. The machine's web server is in front."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from aura_core.errors import AuraError, BearerRejected
from aura_core.wire import MAX_MESSAGE_BYTES
from aura_vmd.bodies import read_body
from aura_vmd.gate import head_complete
from aura_vmd.inbox import Inbox
from aura_vmd.problems import log_unexpected, problem_response

__all__ = ["http_app"]

_log = logging.getLogger(__name__)

_BODY_SECONDS = 20.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def http_app(
    *,
    inbox: Inbox,
    status: Callable[[], str],
    report: Callable[[], Awaitable[Mapping[str, Any]]],
) -> web.Application:
    """``GET /health`` and ``POST /internal/credentials/{subject}``.

    ``status`` is all that health says without the bearer token; ``report`` is the whole.
    """

    async def health(request: web.Request) -> web.StreamResponse:
        answer: dict[str, Any] = {"status": status()}
        try:
            inbox.check_token(request.headers.get("Authorization"))
        except BearerRejected:
            if "Authorization" in request.headers:
                raise
        else:
            answer |= await report()
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def receive(request: web.Request) -> web.StreamResponse:
        # The size comes first (facts of the protocol: see inbox), declared or counted.
        inbox.check_size(request.content_length)
        raw = await read_body(request, limit=MAX_MESSAGE_BYTES, seconds=_BODY_SECONDS)
        accepted = await inbox.pushed(
            request.match_info["subject"], request.headers.get("Authorization"), raw
        )
        return web.json_response(accepted.ack)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        head_complete(request)
        try:
            response = await handler(request)
        except AuraError as error:
            response = problem_response(error)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.reason)
        except Exception as error:  # noqa: BLE001 - a bug must cost one request, not the daemon
            log_unexpected(_log, error)
            response = problem_response(error)
        response.force_close()
        return response

    app = web.Application(middlewares=[guard])
    app.router.add_get("/health", health)
    app.router.add_post("/internal/credentials/{subject}", receive)
    return app
