"""The background task that renews tokens before they end, and finishes what a crash left open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.logs import get_logger
from aura_control.ports import Clock
from aura_control.services.lifetime import LONGEST_MARGIN, due_at
from aura_control.services.providers import Providers
from aura_control.services.refresh import Refresher
from aura_core.errors import AuraError

__all__ = ["Sweeper"]

_log = get_logger(__name__)

_LONGEST_WAIT = 30.0
_SHORTEST_WAIT = 1.0
_AT_ONCE = 8
_PAGE = 500
_FORGOTTEN_AFTER = timedelta(days=1)


class Sweeper:
    """One per process. ``run`` until ``close``."""

    def __init__(
        self,
        *,
        database: Database,
        providers: Providers,
        refresher: Refresher,
        clock: Clock,
        longest_margin: float = LONGEST_MARGIN,
    ) -> None:
        """``longest_margin``: seconds before its end at which any token may be renewed."""
        self._database = database
        self._providers = providers
        self._refresher = refresher
        self._clock = clock
        self._horizon = timedelta(seconds=1.25 * longest_margin)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._woken = asyncio.Event()
        self._closing = False

    async def run(self) -> None:
        """Sweeps until ``close``; a failure is logged and does not end it."""
        await self._guarded(self.finish_interrupted())
        while not self._closing:
            self._woken.clear()
            wait = await self._guarded(self.sweep())
            try:
                async with asyncio.timeout(_LONGEST_WAIT if wait is None else wait):
                    await self._woken.wait()
            except TimeoutError:
                continue

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
        self._closing = True
        self._woken.set()

    async def finish_interrupted(self) -> None:
        """Takes up refreshes whose answer was lost when a process died: first of all, because a
        provider forgives a token that is presented twice only for a short while."""
        async with self._database.reading() as tx:
            interrupted = await tx.integrations.open_intents()
        await self._refresh_all(interrupted)

    async def sweep(self) -> float:
        """Renews what is due; answers the seconds until something will be."""
        now = self._clock()
        soonest = now + timedelta(seconds=_LONGEST_WAIT)
        after = ""
        while not self._closing:
            async with self._database.reading() as tx:
                page = await tx.integrations.ending(
                    before=now + self._horizon, after=after, limit=_PAGE
                )
            due = []
            for connection in page:
                at = self._due_at(connection)
                if at is not None and at <= now:
                    due.append(connection)
                elif at is not None:
                    soonest = min(soonest, at)
            await self._refresh_all(due)
            if len(page) < _PAGE:
                break
            after = page[-1].id
        async with self._database.transaction() as tx:
            await tx.oauth.forget(before=now - _FORGOTTEN_AFTER)
        return max(_SHORTEST_WAIT, (soonest - self._clock()).total_seconds())

    def _due_at(self, connection: Connection) -> datetime | None:
        try:
            _, ctx = self._providers.of(connection)
        except AuraError as error:
            _log.warning("cannot_renew", provider=connection.provider, reason=str(error))
            return None
        return due_at(connection, ctx.method)

    async def _refresh_all(self, connections: Sequence[Connection]) -> None:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                if not self._refresher.waits(connection):
                    group.create_task(self._refresh(connection))

    async def _refresh(self, connection: Connection) -> None:
        async with self._slots:
            if self._closing:
                return
            try:
                await self._refresher.refresh(
                    tenant_id=connection.tenant_id, connection_id=connection.id, early=True
                )
            except AuraError as error:
                # It is in the connection's state already; here it is for the operator.
                _log.info("not_renewed", connection_id=connection.id, reason=error.message)
            except Exception:  # noqa: BLE001 - a plugin's code may raise anything
                _log.exception("renewal_broke", connection_id=connection.id)
