"""Connections: the rows of ``integrations`` with the state beside them.

Every write of tokens raises the revision, records the envelope's digest beside the row and in the
audit log, and closes the open refresh intent: one statement about the connection, never half of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import insert, or_, update

from aura_control.db.columns import milliseconds, new_id
from aura_control.db.connection import Connection, Grant, SealedTokens, Slot, envelope_digest
from aura_control.db.models import ConnectionState, ConnectionStatus, Integration
from aura_control.db.repositories.refreshes import Refreshes
from aura_core.errors import Conflict

__all__ = ["Integrations"]

_NO_TOKENS = SealedTokens(access_token=None)


class Integrations(Refreshes):
    """The users' connections."""

    async def list(self, *, tenant_id: str, user_id: str) -> Sequence[Connection]:
        """The user's connections by provider, disconnected ones too."""
        query = self._rows(tenant_id).where(Integration.user_id == user_id)
        return await self._connections(query.order_by(Integration.provider))

    async def of_users(
        self, user_ids: Collection[str]
    ) -> Mapping[tuple[str, str], Sequence[Connection]]:
        """:meth:`list` for many users, by tenant and user, for the deliverer: the ids are those of
        machines, never of a request."""
        found: dict[tuple[str, str], list[Connection]] = defaultdict(list)
        query = self._rows().where(Integration.user_id.in_(user_ids))
        for connection in await self._connections(query.order_by(Integration.provider)):
            found[connection.tenant_id, connection.user_id].append(connection)
        return found

    async def account_in_use(self, provider: str, account_id: str) -> bool:
        """Whether anybody, of any tenant, is connected to that account of the provider."""
        query = self._rows().where(
            Integration.provider == provider,
            ConnectionStatus.account_id == account_id,
            ConnectionStatus.state != ConnectionState.DISCONNECTED,
        )
        return bool(await self._connections(query.limit(1)))

    async def reserve(self, *, tenant_id: str, user_id: str, provider: str) -> Slot:
        """The id and revision to seal new tokens under; use it in the same transaction.

        Tokens are bound to both, so both must be known before anything is sealed. Raises NotFound
        for another tenant's user.
        """
        await self._require_user(tenant_id, user_id)
        current = await self._connection(
            self._rows(tenant_id)
            .where(Integration.user_id == user_id, Integration.provider == provider)
            # One row, and the one that every writer takes first: whoever takes two rows in another
            # order waits for a writer that waits for him.
            .with_for_update(of=ConnectionStatus)
        )
        if current is None:
            return Slot(connection_id=new_id(), revision=milliseconds(self._now), replaces=None)
        return Slot(
            connection_id=current.id,
            revision=self.next_revision(current.revision),
            replaces=current.revision,
        )

    async def upsert_connected(
        self,
        *,
        tenant_id: str,
        user_id: str,
        provider: str,
        slot: Slot,
        grant: Grant,
        actor: str,
    ) -> Connection:
        """Stores a connection that was just made, new or made again.

        A refresh token that should be kept is opened and sealed again by the caller, since it is
        bound to the revision. Raises Conflict when another one was stored since ``reserve``.
        """
        digest = envelope_digest(grant.tokens, slot.revision)
        row, status = _granted(grant), _connected(grant, slot.revision, digest)
        row["connected_at"] = self._now
        if slot.replaces is None:
            stored = await self._add(
                tenant_id, user_id, provider, slot.connection_id, row=row, status=status
            )
        else:
            stored = await self._replace(
                tenant_id, slot.connection_id, slot.replaces, row=row, status=status
            )
        if not stored:
            raise Conflict("Another request connected this account a moment ago.")
        await self._audit(
            tenant_id,
            slot.connection_id,
            "connection.connected",
            actor,
            provider=provider,
            scopes=[*grant.scopes],
            revision=slot.revision,
            envelope_digest=digest,
        )
        return await self._announce(tenant_id, slot.connection_id, "connected")

    async def mark(
        self,
        *,
        tenant_id: str,
        connection_id: str,
        state: ConnectionState,
        reason: str | None,
        actor: str = "system",
        expected_revision: int | None = None,
    ) -> bool:
        """Says how the connection is; False when it said so already or has another revision.

        ``reauth_required`` closes the refresh intent: no retry will help.
        """
        status = ConnectionStatus
        values: dict[str, Any] = {"state": state, "reason": reason, "updated_at": self._now}
        if state is ConnectionState.REAUTH_REQUIRED:
            values |= {"refresh_started_at": None, "refresh_generation": None, "renew_at": None}
        query = update(status).where(
            status.integration_id == connection_id,
            status.tenant_id == tenant_id,
            status.state != ConnectionState.DISCONNECTED,
            or_(status.state != state, status.reason.is_distinct_from(reason)),
        )
        if expected_revision is not None:
            query = query.where(status.revision == expected_revision)
        done = await self._changed(query.values(**values))
        if done:
            await self._audit(
                tenant_id, connection_id, f"connection.{state.value}", actor, reason=reason
            )
            await self._announce(tenant_id, connection_id, state.value, reason=reason)
        return done

    async def disconnect(
        self,
        *,
        tenant_id: str,
        connection_id: str,
        expected_revision: int,
        receipt: Mapping[str, Any],
        actor: str,
    ) -> bool:
        """Forgets the tokens and keeps the receipt; False: it has another revision by now.

        The row stays, so that connecting again goes on from its revision.
        """
        revision = self.next_revision(expected_revision)
        digest = envelope_digest(_NO_TOKENS, revision)
        done = await self._replace(
            tenant_id,
            connection_id,
            expected_revision,
            row={"access_token": None, "refresh_token": None, "token_expiry": None},
            status={
                "state": ConnectionState.DISCONNECTED,
                "reason": None,
                "revision": revision,
                "refresh_started_at": None,
                "refresh_generation": None,
                "renew_at": None,
                "envelope_digest": digest,
                "receipt": dict(receipt),
            },
        )
        if done:
            await self._audit(
                tenant_id,
                connection_id,
                "connection.disconnected",
                actor,
                revision=revision,
                envelope_digest=digest,
                receipt=dict(receipt),
            )
            await self._announce(tenant_id, connection_id, "disconnected")
        return done

    async def _add(
        self,
        tenant_id: str,
        user_id: str,
        provider: str,
        connection_id: str,
        *,
        row: Mapping[str, Any],
        status: Mapping[str, Any],
    ) -> bool:
        times = {"created_at": self._now, "updated_at": self._now}
        added = await self._one(
            self._insert(Integration)
            .values(id=connection_id, user_id=user_id, provider=provider, **row, **times)
            .on_conflict_do_nothing()
            .returning(Integration)
        )
        if added is None:
            return False
        await self._session.execute(
            insert(ConnectionStatus).values(
                integration_id=connection_id, tenant_id=tenant_id, **status, updated_at=self._now
            )
        )
        return True


def _granted(grant: Grant) -> dict[str, Any]:
    return {
        "access_token": grant.tokens.access_token,
        "refresh_token": grant.tokens.refresh_token,
        "token_expiry": grant.token_expiry,
        "scopes": [*grant.scopes],
        "metadata_": dict(grant.metadata),
    }


def _connected(grant: Grant, revision: int, digest: str) -> dict[str, Any]:
    return {
        "state": ConnectionState.CONNECTED,
        "reason": None,
        "auth_method": grant.auth_method,
        "account_id": grant.account_id,
        "config": dict(grant.config),
        "revision": revision,
        "refresh_started_at": None,
        "refresh_generation": None,
        "renew_at": grant.renew_at or grant.token_expiry,
        "envelope_digest": digest,
        "receipt": None,
    }
