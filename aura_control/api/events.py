"""What happens, as server-sent events: ``GET /api/events`` to all that is the user's, and
``GET /api/agents/{id}/events`` to one agent.

The events come out of the database, so a watcher misses nothing and can go on after a broken
connection from the last id that it saw (WHATWG HTML §9.2.5, ``Last-Event-ID``). The notifier only
makes it immediate; what another process committed is seen when the database is asked again. Old
events are deleted: whoever comes back after that is told by the event ``gap``, and should look at
how things are now.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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

__all__ = ["watch_agent", "watch_user"]

_POLL = 2.0
"""Seconds after which the database is asked again for what other processes committed."""

_KEEP_ALIVE = 10.0
_ID = re.compile(r"[0-9]{1,15}", re.ASCII)

Read = Callable[[Transaction, int], Awaitable[tuple[Sequence[Event], bool]]]
"""The events after an id, and whether others may still come."""


async def watch_agent(request: Request) -> StreamingResponse:
    """All events of the agent after ``Last-Event-ID`` (from the oldest kept without one), then
    those to come.

    The stream ends when the agent is gone, when the token is revoked or expires, when the control
    plane stops, and when the watcher does.
    """
    principal = await authenticate(request)
    await read_nothing(request)
    services, agent_id = services_of(request), agent_id_of(request)
    last_id = _last_id(request)
    async with services.database.reading() as tx:
        await own(tx, principal, agent_id)

    async def read(tx: Transaction, after: int) -> tuple[Sequence[Event], bool]:
        events = await tx.events.after(
            tenant_id=principal.tenant_id, agent_id=agent_id, last_id=after
        )
        return events, await _exists(tx, principal, agent_id)

    return _streaming(_stream(services, principal, agent_id, read, last_id))


async def watch_user(request: Request) -> StreamingResponse:
    """All events of the user's connections and agents after ``Last-Event-ID``, then those to
    come; without one, only those to come. ``0`` is before the oldest.

    The stream ends when the token is revoked or expires, when the control plane stops, and when
    the watcher does.
    """
    principal = await authenticate(request)
    await read_nothing(request)
    services = services_of(request)
    if "last-event-id" in request.headers:
        last_id = _last_id(request)
    else:
        async with services.database.reading() as tx:
            last_id = await tx.events.newest(
                tenant_id=principal.tenant_id, user_id=principal.user_id
            )

    async def read(tx: Transaction, after: int) -> tuple[Sequence[Event], bool]:
        events = await tx.events.of_user(
            tenant_id=principal.tenant_id, user_id=principal.user_id, last_id=after
        )
        return events, True

    return _streaming(_stream(services, principal, principal.user_id, read, last_id))


def _streaming(stream: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(
        stream,
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _last_id(request: Request) -> int:
    text = request.headers.get("last-event-id", "0")
    if not _ID.fullmatch(text):
        raise InvalidInput(
            "Last-Event-ID is not an id of these events.",
            fields={"last-event-id": "must be a whole number"},
        )
    return int(text)


async def _stream(
    services: Services, principal: Principal, followed: str, read: Read, last_id: int
) -> AsyncIterator[str]:
    # The id comes first, without an event: whoever is cut off before the first event can read on.
    yield f"retry: 1000\nid: {last_id}\n\n"
    loop = asyncio.get_running_loop()
    # Watching begins before the first reading: what is committed in between wakes the waiting.
    with services.events.watch(followed) as watch:
        if last_id and await _pruned(services, last_id):
            yield f"id: {last_id}\nevent: gap\ndata: {json.dumps({'after': last_id})}\n\n"
        said = loop.time()
        while not services.events.closed:
            async with services.database.reading() as tx:
                if not await tx.tokens.lives(principal):
                    return
                events, more = await read(tx, last_id)
            for event in events:
                last_id = event.id
                yield _block(event)
            if events:
                said = loop.time()
                continue
            if not more:
                return
            if loop.time() - said >= _KEEP_ALIVE:
                said = loop.time()
                yield ": keep-alive\n\n"
            await watch.wait(_POLL)


async def _pruned(services: Services, last_id: int) -> bool:
    async with services.database.reading() as tx:
        return await tx.events.pruned_after(last_id)


async def _exists(tx: Transaction, principal: Principal, agent_id: str) -> bool:
    try:
        await own(tx, principal, agent_id)
    except NotFound:
        return False
    return True


def _block(event: Event) -> str:
    """One event; JSON holds no line break, so it is one line."""
    data = {
        **event.data,
        "at": event.at.isoformat(),
        "agent_id": event.agent_id,
        "instance_id": event.instance_id,
    }
    text = json.dumps(data, separators=(",", ":"))
    return f"id: {event.id}\nevent: {event.kind}\ndata: {text}\n\n"
