"""Renewing tokens: one call to the provider however many want it, and no token lost on the way.

The order is what makes it safe: single flight in the process, then the lock between processes,
then read again, then the durable intent, then the call in a task that no caller can cancel, then
the commit of what came back. A provider that takes a refresh token back once it was used ends the
whole connection when two ask with the same one, or when the answer of the only one is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.logs import get_logger
from aura_control.ports import Clock, Locks
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.lifetime import due_at, is_due
from aura_control.services.providers import Providers
from aura_control.services.refusals import refuse
from aura_control.services.renewal import Renewal
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import (
    Conflict,
    EnvelopeError,
    ReauthorizationRequired,
    RefreshFailed,
)

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["Refresher", "fresh_envelope"]

_log = get_logger(__name__)

_FIRST_BACKOFF = 5.0
_LONGEST_BACKOFF = 300.0


@dataclass(frozen=True, kw_only=True)
class _Backoff:
    failures: int
    until: datetime


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
        self._renewal = Renewal(
            database=database, vault=vault, providers=providers, clock=clock, pause=pause
        )
        self._flights: dict[str, asyncio.Task[Connection]] = {}
        self._backoffs: dict[str, _Backoff] = {}
        self._draining = False

    async def refresh(
        self, *, tenant_id: str, connection_id: str, early: bool = False
    ) -> Connection:
        """The connection with tokens that are good for a while: as it is, or renewed.

        ``early`` renews from the sweep's time on, which lies before the margin.

        Raises ReauthorizationRequired when only the user can help, RefreshFailed when a later try
        may succeed, Conflict when it is disconnected, and NotFound.
        """
        flight = self._flights.get(connection_id)
        if flight is None:
            if self._draining:
                raise RefreshFailed("Aura is shutting down.", hint="Try again in a moment.")
            # A task of the refresher's own: whoever asked may go away, and a call under way whose
            # answer nobody stores would lose the connection.
            flight = asyncio.create_task(self._renew(tenant_id, connection_id, early))
            self._flights[connection_id] = flight
            flight.add_done_callback(lambda done: self._landed(connection_id, done))
        return await asyncio.shield(flight)

    def waits(self, connection: Connection) -> bool:
        """Whether the last try failed so recently that the next one should wait."""
        backoff = self._backoffs.get(connection.id)
        return backoff is not None and backoff.until > self._clock()

    async def drain(self) -> None:
        """Takes no new refreshes and waits for those under way to be stored."""
        self._draining = True
        while self._flights:
            await asyncio.wait(list(self._flights.values()))

    def _landed(self, connection_id: str, flight: asyncio.Task[Connection]) -> None:
        del self._flights[connection_id]
        error = None if flight.cancelled() else flight.exception()
        if error is None:
            self._backoffs.pop(connection_id, None)
        elif isinstance(error, RefreshFailed):
            self._back_off(connection_id, error)
        elif not isinstance(error, ReauthorizationRequired | Conflict):
            _log.error("refresh_broke", connection_id=connection_id, exc_info=error)

    def _back_off(self, connection_id: str, error: RefreshFailed) -> None:
        before = self._backoffs.get(connection_id)
        failures = 1 if before is None else before.failures + 1
        longest = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** min(failures - 1, 10))
        asked = float(getattr(error.__cause__, "retry_after", 0.0))
        seconds = max(asked, random.uniform(longest / 2, longest))  # noqa: S311 - jitter
        self._backoffs[connection_id] = _Backoff(
            failures=failures, until=self._clock() + timedelta(seconds=seconds)
        )

    async def _renew(self, tenant_id: str, connection_id: str, early: bool) -> Connection:
        async with self._locks.hold(f"connection-{connection_id}"):
            async with self._database.reading() as tx:
                connection = await tx.integrations.by_id(
                    tenant_id=tenant_id, connection_id=connection_id
                )
            if not needs_refresh(connection, self._providers, self._clock(), early=early):
                return connection
            renewed = await self._renewal.run(connection)
        if renewed.revision != connection.revision:
            self._refreshed(renewed)
        return renewed


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
    _, ctx = providers.of(connection)
    if early:
        at = due_at(connection, ctx.method)
        return at is not None and at <= now
    return is_due(connection, ctx.method, now)


async def fresh_envelope(
    services: Services, tenant_id: str, connection: Connection
) -> CredentialEnvelope:
    """The connection's envelope with an access token that can be used now, renewed if need be.

    A refresh that fails for the moment does not matter while the present token lives. Raises
    ReauthorizationRequired, RefreshFailed, Conflict, and EnvelopeError for what does not open.
    """
    now = services.clock()
    if needs_refresh(connection, services.providers, now):
        alive = connection.token_expiry is None or connection.token_expiry > now
        try:
            if services.refresher.waits(connection):
                raise RefreshFailed(
                    f"{connection.provider} did not renew the token a moment ago.",
                    hint="Aura tries again by itself.",
                )
            connection = await services.refresher.refresh(
                tenant_id=tenant_id, connection_id=connection.id
            )
        except RefreshFailed:
            if not alive:
                raise
    try:
        async with services.database.reading() as tx:
            newest = await tx.integrations.by_id(tenant_id=tenant_id, connection_id=connection.id)
            envelope = await services.vault.open_envelope(tx, newest)
    except EnvelopeRefused as refused:
        error = await refuse(services.database, services.vault, refused)
        raise error from refused
    if not envelope.secrets:
        raise EnvelopeError(f"There is no credential for {connection.provider}.")
    return envelope
