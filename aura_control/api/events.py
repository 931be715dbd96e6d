"""``GET /api/agents/{id}/events``: what happens to an agent, as server-sent events.

The events come out of the database, so a watcher misses nothing and can go on after a broken
connection from the last id that it saw (WHATWG HTML §9.2.5, ``Last-Event-ID``). The notifier only
makes it immediate; an event that another process committed is seen at the next keep-alive.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import StreamingResponse

from aura_control.api.parameters import agent_id_of
from aura_control.api.request import authenticate, read_nothing, services_of
from aura_control.db.models import Event
from aura_control.db.transaction import Transaction
from aura_control.services.agents import own
from aura_core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = ["watch_agent"]

_KEEP_ALIVE = 10.0
_ID = re.compile(r"[0-9]{1,15}", re.ASCII)


async def watch_agent(request: Request) -> StreamingResponse:
    """All events after ``Last-Event-ID`` (from the beginning without one), then those to come.

    The stream ends when the agent is gone, when the control plane stops, and when the watcher
    does.
    """
    principal = await authenticate(request)
    await read_nothing(request)
    services, agent_id = services_of(request), agent_id_of(request)
    last_id = _last_id(request)
    async with services.database.reading() as tx:
        await own(tx, principal, agent_id)
    return StreamingResponse(
        _stream(services, principal, agent_id, last_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _last_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not _ID.fullmatch(text):
        raise InvalidInput(
            "Last-Event-ID is not an id of these events.",
            fields={"Last-Event-ID": "must be a whole number"},
        )
    return int(text)


async def _stream(
    services: Services, principal: Principal, agent_id: str, last_id: int
) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    # Watching begins before the first reading: what is committed in between wakes the waiting.
    with services.events.watch(agent_id) as watch:
        while not services.events.closed:
            async with services.database.reading() as tx:
                events = await tx.events.after(
                    tenant_id=principal.tenant_id, agent_id=agent_id, last_id=last_id
                )
                gone = not await _exists(tx, principal, agent_id)
            for event in events:
                last_id = event.id
                yield _block(event)
            if gone and not events:
                return
            if not events and not await watch.wait(_KEEP_ALIVE):
                yield ": keep-alive\n\n"


async def _exists(tx: Transaction, principal: Principal, agent_id: str) -> bool:
    try:
        await own(tx, principal, agent_id)
    except NotFound:
        return False
    return True


def _block(event: Event) -> str:
    """One event; JSON holds no line break, so it is one line."""
    data = {**event.data, "at": event.at.isoformat(), "instance_id": event.instance_id}
    text = json.dumps(data, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {text}\n\n"
