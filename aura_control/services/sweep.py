"""The background task that renews tokens before they end, and finishes what a crash left open.

What it should look at is a column (``connection_states.renew_at``): when tokens are due, at once
while an intent is open, later after a failure. So a look costs as much as there is to do, however
many connections there are, and all processes of one database see the same.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Iterable
from datetime import datetime, timedelta
from functools import partial

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.logs import get_logger
from aura_control.ports import Clock, LockTaken
from aura_control.services.refresh import Refresher
from aura_core.errors import AuraError

__all__ = ["Sweeper"]

_log = get_logger(__name__)

_LONGEST_WAIT = 10.0
"""Seconds between looks: what a process leaves open when it dies is taken up within this and the
provider's time to answer, which together stay below the promised 30 seconds."""
_SHORTEST_WAIT = 0.5

_AT_ONCE = 64
_AT_ONCE_PER_PROVIDER = 32
"""100,000 connections with tokens of an hour are 28 refreshes in a second, which 32 calls at once
bear up to an answer time of 1.1 s. One provider gets half: the other half goes on when it hangs."""

_QUEUED_PER_PROVIDER = 500
_PAGE = 500
_FORGOTTEN_AFTER = timedelta(days=1)
_FORGETS_EVERY = timedelta(minutes=1)


class Sweeper:
    """One per process. ``run`` until ``close``."""

    def __init__(
        self,
        *,
        database: Database,
        refresher: Refresher,
        clock: Clock,
    ) -> None:
        self._database = database
        self._refresher = refresher
        self._clock = clock
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._provider_slots: dict[str, asyncio.Semaphore] = {}
        self._queued: Counter[str] = Counter()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._forgets_at: datetime | None = None
        self._woken = asyncio.Event()
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Sweeps until ``close``; a failure is logged and does not end it."""
        await self._guarded(self._begin_interrupted())
        while not self._closed.is_set():
            self._woken.clear()
            wait = await self._guarded(self._begin_due())
            await _within(_LONGEST_WAIT if wait is None else wait, self._woken)
            # Many renewals wake many times: one look answers them all.
            await _within(_SHORTEST_WAIT, self._closed)
        await self._settled()

    async def _guarded(self, work: Awaitable[float | None]) -> float | None:
        try:
            return await work
        except Exception:  # noqa: BLE001 - the next sweep may succeed
            _log.exception("sweep_failed")
            return None

    def wake(self) -> None:
        """There are new tokens, which may end before the next sweep; returns at once."""
        self._woken.set()

    def close(self) -> None:
        """Starts nothing new; ``run`` returns after what is under way."""
        self._closed.set()
        self._woken.set()

    async def finish_interrupted(self) -> None:
        """Takes up refreshes whose answer was lost when a process died: first of all, because a
        provider forgives a token that is presented twice only for a short while."""
        await self._begin_interrupted()
        await self._settled()

    async def sweep(self) -> float:
        """Renews what is due; answers the seconds until something will be."""
        wait = await self._begin_due()
        await self._settled()
        return wait

    async def _settled(self) -> None:
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _begin_interrupted(self) -> None:
        async with self._database.reading() as tx:
            self._begin(await tx.integrations.open_intents())

    async def _begin_due(self) -> float:
        """Begins what is due, and does not wait for it: a provider that hangs would keep all others
        from being looked at."""
        now = self._clock()
        after: tuple[datetime, str] | None = None
        left_over = False
        while not self._closed.is_set():
            full = {name for name, count in self._queued.items() if count >= _QUEUED_PER_PROVIDER}
            async with self._database.reading() as tx:
                page = await tx.integrations.due(
                    before=now,
                    after=after,
                    excluding=full | self._refresher.paused(),
                    limit=_PAGE,
                )
                soonest = await tx.integrations.next_due(after=now)
            left_over = left_over or bool(page) or bool(full)
            # Processes that find the same page begin at different places of it.
            self._begin(random.sample(page, len(page)))
            if len(page) < _PAGE:
                break
            after = (page[-1].renew_at or now, page[-1].id)
        await self._forget(now)
        if left_over:
            return _SHORTEST_WAIT
        wait = _LONGEST_WAIT if soonest is None else (soonest - self._clock()).total_seconds()
        return min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT)

    def _begin(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            if connection.id not in self._tasks:
                self._queued[connection.provider] += 1
                task = asyncio.create_task(self._refresh(connection))
                self._tasks[connection.id] = task
                task.add_done_callback(partial(self._ended, connection))

    def _ended(self, connection: Connection, _: asyncio.Task[None]) -> None:
        del self._tasks[connection.id]
        self._queued[connection.provider] -= 1

    async def _refresh(self, connection: Connection) -> None:
        provider = self._provider_slots.setdefault(
            connection.provider, asyncio.Semaphore(_AT_ONCE_PER_PROVIDER)
        )
        async with provider, self._slots:
            if self._closed.is_set() or connection.provider in self._refresher.paused():
                return
            try:
                await self._refresher.refresh(
                    tenant_id=connection.tenant_id, connection_id=connection.id, early=True
                )
            except LockTaken:
                return  # another process is at it, or its user is
            except AuraError as error:
                # It is in the connection's state already; here it is for the operator.
                _log.info("not_renewed", connection_id=connection.id, reason=error.message)
            except Exception:  # noqa: BLE001 - a plugin's code may raise anything
                _log.exception("renewal_broke", connection_id=connection.id)

    async def _forget(self, now: datetime) -> None:
        if self._forgets_at is not None and self._forgets_at > now:
            return
        self._forgets_at = now + _FORGETS_EVERY
        async with self._database.transaction() as tx:
            await tx.oauth.forget(before=now - _FORGOTTEN_AFTER)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Waits for the event, but not longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
