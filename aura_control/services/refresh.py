"""Renewing tokens: one call to the provider however many want it, and no token lost on the way.

The order is what makes it safe: single flight in the process, then the lock between processes,
then read again, then the durable intent, then the call in a task that no caller can cancel, then
the commit of what came back. A provider that takes a refresh token back once it was used ends the
whole connection when two ask with the same one, or when the answer of the only one is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.logs import get_logger
from aura_control.ports import Clock, Locks, LockTaken
from aura_control.services.backoff import Backoffs
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.lifetime import is_due
from aura_control.services.providers import Providers
from aura_control.services.refusals import refuse
from aura_control.services.renewal import Renewal
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import (
    AuraError,
    Conflict,
    EnvelopeError,
    ReauthorizationRequired,
    RefreshFailed,
)

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["Refresher", "fresh_envelope"]

_log = get_logger(__name__)

_WAIT_SECONDS = 600.0
"""How long a refresh waits for another process's. A holder that works takes five minutes at the
most: four tries of a minute each, five seconds between them, and the commits. The rest is for one
that is stopped for a while. A lock that is still held then is held by a process that hangs."""

_PATIENCE = 10.0
"""Seconds that a caller waits for a renewal while the token that there is can still be used."""


@dataclass(frozen=True, kw_only=True)
class _Flight:
    task: asyncio.Task[Connection]
    patient: bool
    """Whether it waits for another process's refresh."""


class Refresher:
    """Renews connections. One per process; ``drain`` before the event loop ends."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        providers: Providers,
        locks: Locks,
        clock: Clock,
        refreshed: Callable[[Connection], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``refreshed`` is called after each commit of new tokens; ``pause`` waits (seconds)
        between tries with the same refresh token."""
        self._database = database
        self._providers = providers
        self._locks = locks
        self._clock = clock
        self._refreshed = refreshed
        self._backoffs = Backoffs(clock)
        self._renewal = Renewal(
            database=database,
            vault=vault,
            providers=providers,
            clock=clock,
            pause=pause,
            backoffs=self._backoffs,
        )
        self._flights: dict[str, _Flight] = {}
        self._holding: set[str] = set()
        self._draining = False

    async def refresh(
        self, *, tenant_id: str, connection_id: str, early: bool = False
    ) -> Connection:
        """The connection with tokens that are good for a while: as it is, or renewed.

        ``early`` is the sweep's way: it renews from the sweep's time on, which lies before the
        margin, and leaves a connection alone that another process is busy with (LockTaken).

        Raises ReauthorizationRequired when only the user can help, RefreshFailed when a later try
        may succeed, Conflict when it is disconnected, and NotFound.
        """
        while True:
            flight = self._flights.get(connection_id)
            if flight is None:
                flight = self._take_off(tenant_id, connection_id, early)
            elif early and flight.patient and connection_id not in self._holding:
                # It waits for another process, up to ten minutes if that one was stopped. The
                # sweep would spend its few places on such waits, and renew nothing else.
                raise LockTaken("Another process of Aura is busy with this connection.")
            try:
                return await asyncio.shield(flight.task)
            except LockTaken:
                if early or flight.patient:
                    raise
                # It joined the sweep's, which does not wait; whoever needs the token does.
            except asyncio.CancelledError:
                if flight.task.cancelled() and self._draining:
                    raise _shutting_down() from None
                raise

    def _take_off(self, tenant_id: str, connection_id: str, early: bool) -> _Flight:
        if self._draining:
            raise _shutting_down()
        # A task of the refresher's own: whoever asked may go away, and a call under way whose
        # answer nobody stores would lose the connection.
        task = asyncio.create_task(self._renew(tenant_id, connection_id, early))
        flight = self._flights[connection_id] = _Flight(task=task, patient=not early)
        task.add_done_callback(lambda done: self._landed(connection_id, done))
        return flight

    def paused(self) -> frozenset[str]:
        """The providers that are asked for nothing at the moment."""
        return self._backoffs.paused()

    def waits(self, connection: Connection) -> bool:
        """Whether the last try failed, in whatever process, so recently that the next one should
        wait: what is due and lies in the future was put off."""
        return connection.renew_at is not None and connection.renew_at > self._clock()

    async def drain(self) -> None:
        """Takes no new refreshes and waits for those under way to be stored; those that still wait
        for another process have asked nobody for anything and are given up."""
        self._draining = True
        for connection_id, flight in self._flights.items():
            if connection_id not in self._holding:
                flight.task.cancel()
        while self._flights:
            await asyncio.wait([flight.task for flight in self._flights.values()])

    def _landed(self, connection_id: str, task: asyncio.Task[Connection]) -> None:
        del self._flights[connection_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, AuraError):
            _log.error("refresh_broke", connection_id=connection_id, exc_info=error)

    async def _renew(self, tenant_id: str, connection_id: str, early: bool) -> Connection:
        async with AsyncExitStack() as stack:
            waited = await self._locked(stack, f"connection-{connection_id}", early)
            self._holding.add(connection_id)
            try:
                async with self._database.reading() as tx:
                    connection = await tx.integrations.by_id(
                        tenant_id=tenant_id, connection_id=connection_id
                    )
                if not needs_refresh(connection, self._providers, self._clock(), early=early):
                    return connection
                if waited and self.waits(connection):
                    # Whoever had the lock asked and failed: each process in turn would ask again
                    # at once, and a provider counts a token that is presented twice.
                    raise _put_off(connection)
                renewed = await self._renewed(connection)
            finally:
                self._holding.discard(connection_id)
        if renewed.revision != connection.revision:
            self._refreshed(renewed)
        return renewed

    async def _locked(self, stack: AsyncExitStack, name: str, early: bool) -> bool:
        """Holds the lock on the stack; whether it had to wait for another process."""
        try:
            await stack.enter_async_context(self._locks.hold(name, wait=0.0))
        except LockTaken:
            if early:
                raise
            await stack.enter_async_context(self._locks.hold(name, wait=_WAIT_SECONDS))
            return True
        return False

    async def _renewed(self, connection: Connection) -> Connection:
        try:
            return await self._renewal.run(connection)
        except (ReauthorizationRequired, RefreshFailed, Conflict):
            raise
        except Exception as error:
            await self._renewal.put_off(connection, error)
            raise


def _shutting_down() -> RefreshFailed:
    return RefreshFailed("Aura is shutting down.", hint="Try again in a moment.")


def _put_off(connection: Connection) -> RefreshFailed:
    return RefreshFailed(
        f"{connection.provider} did not renew the token a moment ago.",
        hint="Aura tries again by itself.",
    )


def needs_refresh(
    connection: Connection, providers: Providers, now: datetime, *, early: bool = False
) -> bool:
    """Whether the tokens should be renewed now.

    Raises Conflict for a connection that ended and ReauthorizationRequired for one that waits for
    its user.
    """
    if connection.state is ConnectionState.DISCONNECTED:
        raise Conflict(f"{connection.provider} is disconnected.", hint="Connect it again.")
    if connection.state is ConnectionState.REAUTH_REQUIRED:
        raise ReauthorizationRequired(
            connection.reason or f"{connection.provider} must be connected again.",
            hint="Connect the account again.",
        )
    if connection.refresh_generation == connection.revision:
        return True  # an earlier refresh's answer was lost
    if connection.token_expiry is None:
        return False
    if early:
        return connection.renew_at is not None and connection.renew_at <= now
    _, ctx = providers.of(connection)
    return is_due(connection, ctx.method, now)


async def fresh_envelope(
    services: Services, tenant_id: str, connection: Connection
) -> CredentialEnvelope:
    """The connection's envelope with an access token that can be used now, renewed if need be.

    While the present token lives, a refresh that fails for the moment, or takes long because
    another process is at it, does not matter. Raises ReauthorizationRequired, RefreshFailed,
    Conflict, and EnvelopeError for what does not open.
    """
    now = services.clock()
    if needs_refresh(connection, services.providers, now):
        alive = connection.token_expiry is None or connection.token_expiry > now
        try:
            if services.refresher.waits(connection):
                raise _put_off(connection)
            async with asyncio.timeout(_PATIENCE if alive else None):
                connection = await services.refresher.refresh(
                    tenant_id=tenant_id, connection_id=connection.id
                )
        except (RefreshFailed, TimeoutError):
            if not alive:
                raise
    try:
        async with services.database.reading() as tx:
            newest = await tx.integrations.by_id(tenant_id=tenant_id, connection_id=connection.id)
            if newest.state is ConnectionState.DISCONNECTED:
                raise Conflict(f"{newest.provider} is disconnected.", hint="Connect it again.")
            envelope = await services.vault.open_envelope(tx, newest)
    except EnvelopeRefused as refused:
        error = await refuse(services.database, services.vault, refused)
        raise error from refused
    if not envelope.secrets:
        raise EnvelopeError(f"There is no credential for {connection.provider}.")
    return envelope
