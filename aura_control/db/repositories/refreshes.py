"""Refreshing a connection's tokens: the intent before, the new tokens after.

An intent is committed before the provider is asked. One that is still open when a process starts
means that the answer was lost: the refresh token of that generation may be spent or not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import func, literal, select, tuple_, update

from aura_control.db.connection import Connection, SealedTokens, envelope_digest
from aura_control.db.models import ConnectionState, ConnectionStatus, Integration
from aura_control.db.repositories.connection_rows import ConnectionRows

__all__ = ["Refreshes"]

_REFRESHABLE = (ConnectionState.CONNECTED, ConnectionState.EXPIRING, ConnectionState.UNCERTAIN)


class Refreshes(ConnectionRows):
    """What the refresher asks of a connection; it holds the cross-process lock meanwhile."""

    async def due(
        self,
        *,
        before: datetime,
        after: tuple[datetime, str] | None = None,
        excluding: Collection[str] = (),
        limit: int = 500,
    ) -> Sequence[Connection]:
        """Connections of all tenants that the sweep should look at, most urgent first.

        ``after``: ``renew_at`` and id of the last one of the page before; ``excluding``: providers.
        """
        place = (ConnectionStatus.renew_at, ConnectionStatus.integration_id)
        query = self._rows().where(
            ConnectionStatus.renew_at <= before, ConnectionStatus.state.in_(_REFRESHABLE)
        )
        if after is not None:
            at, beyond = after
            last = tuple_(literal(at, ConnectionStatus.renew_at.type), literal(beyond))
            query = query.where(tuple_(*place) > last)
        if excluding:
            query = query.where(Integration.provider.not_in(excluding))
        return await self._connections(query.order_by(*place).limit(limit))

    async def next_due(self, *, after: datetime) -> datetime | None:
        """When the first connection beyond ``after`` is due."""
        query = select(func.min(ConnectionStatus.renew_at)).where(ConnectionStatus.renew_at > after)
        return await self._one(query)

    async def postpone(
        self,
        *,
        tenant_id: str,
        connection_id: str,
        expected_revision: int,
        until: datetime,
    ) -> bool:
        """The sweep of any process should not look at it before ``until``. Nothing is audited: it
        says when Aura tries again, not how the connection is."""
        return await self._changed(
            update(ConnectionStatus)
            .where(
                ConnectionStatus.integration_id == connection_id,
                ConnectionStatus.tenant_id == tenant_id,
                ConnectionStatus.revision == expected_revision,
                ConnectionStatus.renew_at.is_not(None),
            )
            .values(renew_at=until)
        )

    async def open_intents(self) -> Sequence[Connection]:
        """Connections of all tenants whose refresh was begun and not finished, oldest first.

        Without those that were put off since: their process lived to say when to ask again, and
        after an hour of a provider's silence they may be all of its connections.
        """
        query = self._rows().where(
            ConnectionStatus.refresh_generation.is_not(None),
            ConnectionStatus.renew_at <= self._now,
        )
        return await self._connections(
            query.order_by(ConnectionStatus.refresh_started_at, Integration.id)
        )

    async def begin_refresh(
        self, *, tenant_id: str, connection_id: str, expected_revision: int
    ) -> bool:
        """Opens the intent to spend this revision's refresh token; False: it is another revision.

        An intent that is open for the same revision keeps its beginning: that one is retried. The
        connection is due from now on, until the intent is closed or the next try is put off: so
        the sweep of any process takes up what this one leaves open when it dies.
        """
        status = ConnectionStatus
        mine = (
            status.integration_id == connection_id,
            status.tenant_id == tenant_id,
            status.revision == expected_revision,
            status.state.in_((*_REFRESHABLE, ConnectionState.REAUTH_REQUIRED)),
        )
        opened = await self._changed(
            update(status)
            .where(*mine, status.refresh_generation.is_distinct_from(expected_revision))
            .values(
                refresh_started_at=self._now,
                refresh_generation=expected_revision,
                renew_at=self._now,
                updated_at=self._now,
            )
        )
        if opened:
            await self._audit(
                tenant_id,
                connection_id,
                "connection.refresh_started",
                "system",
                generation=expected_revision,
            )
            return True
        return await self._connection(self._rows(tenant_id).where(*mine)) is not None

    async def lock(self, *, tenant_id: str, connection_id: str) -> None:
        """Holds the connection until the transaction ends, for whoever takes other rows before
        writing it: every writer has this one first. On SQLite there is one writer."""
        if self._session.get_bind().dialect.name == "sqlite":
            return
        status = ConnectionStatus
        await self._one(
            select(status.integration_id)
            .where(status.integration_id == connection_id, status.tenant_id == tenant_id)
            .with_for_update()
        )

    async def apply_refresh(
        self,
        *,
        tenant_id: str,
        connection_id: str,
        expected_revision: int,
        revision: int,
        tokens: SealedTokens,
        token_expiry: datetime | None,
        renew_at: datetime | None = None,
        scopes: Sequence[str] | None = None,
        actor: str = "system",
    ) -> Connection | None:
        """Stores new tokens, sealed under ``revision``, and closes the intent; the connection as
        it is then.

        ``revision`` comes from ``next_revision``; ``scopes`` stay when None, and the sweep comes
        when the token ends if ``renew_at`` is None. None: somebody stored another revision
        meanwhile, and nothing was written.
        """
        digest = envelope_digest(tokens, revision)
        row = {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "token_expiry": token_expiry,
        }
        done = await self._replace(
            tenant_id,
            connection_id,
            expected_revision,
            row=row if scopes is None else {**row, "scopes": [*scopes]},
            status={
                "state": ConnectionState.CONNECTED,
                "reason": None,
                "revision": revision,
                "refresh_started_at": None,
                "refresh_generation": None,
                "renew_at": renew_at or token_expiry,
                "envelope_digest": digest,
            },
        )
        if not done:
            return None
        await self._audit(
            tenant_id,
            connection_id,
            "connection.refreshed",
            actor,
            revision=revision,
            envelope_digest=digest,
        )
        return await self._announce(tenant_id, connection_id, "refreshed")

    async def end_refresh(self, *, tenant_id: str, connection_id: str, generation: int) -> bool:
        """Closes the intent without new tokens, where the provider surely spent nothing."""
        done = await self._changed(
            update(ConnectionStatus)
            .where(
                ConnectionStatus.integration_id == connection_id,
                ConnectionStatus.tenant_id == tenant_id,
                ConnectionStatus.refresh_generation == generation,
            )
            .values(refresh_started_at=None, refresh_generation=None, updated_at=self._now)
        )
        if done:
            await self._audit(
                tenant_id,
                connection_id,
                "connection.refresh_ended",
                "system",
                generation=generation,
            )
        return done
