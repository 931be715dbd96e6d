"""Tokens of ended connections that are still to be revoked, and the receipts they lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update

from aura_control.db.models import ConnectionState, ConnectionStatus, PendingRevocation
from aura_control.db.repositories.base import Repository

__all__ = ["Lines", "Revocations"]

Lines = Mapping[str, Mapping[str, Any]]
"""The receipt's lines by token: ``outcome``, ``detail``, ``at``, ``retry_at``."""


class Revocations(Repository):
    """What the revoker works through. The receipt of a connection follows each change."""

    async def add(
        self,
        *,
        tenant_id: str,
        connection_id: str,
        revision: int,
        auth_method: str,
        account_id: str | None,
        config: Mapping[str, Any],
        sealed: str,
        lines: Lines,
        gives_up_at: datetime,
        actor: str,
    ) -> None:
        """Keeps sealed tokens until they are revoked; the first attempt is due at once."""
        await self._session.execute(
            insert(PendingRevocation).values(
                connection_id=connection_id,
                revision=revision,
                tenant_id=tenant_id,
                auth_method=auth_method,
                account_id=account_id,
                config=dict(config),
                sealed=sealed,
                lines=_plain(lines),
                attempts=0,
                next_attempt_at=self._now,
                gives_up_at=gives_up_at,
                created_at=self._now,
            )
        )
        await self._tell(tenant_id, connection_id, revision, lines)
        await self._audit(
            tenant_id,
            connection_id,
            "connection.revocation_wanted",
            actor,
            revision=revision,
            tokens=sorted(lines),
        )

    async def due(self, *, limit: int = 100) -> Sequence[PendingRevocation]:
        """Rows of all tenants whose next attempt is due, the longest waiting first."""
        row = PendingRevocation
        query = select(row).where(row.next_attempt_at <= self._now)
        return await self._all(query.order_by(row.next_attempt_at, row.revision).limit(limit))

    async def next_attempt_at(self) -> datetime | None:
        """When the next attempt of any tenant is due."""
        row = PendingRevocation
        query = select(row.next_attempt_at).order_by(row.next_attempt_at).limit(1)
        return await self._one(query)

    async def of(self, *, tenant_id: str, connection_id: str) -> Sequence[PendingRevocation]:
        """What is still to be revoked of one connection, oldest first."""
        row = PendingRevocation
        query = select(row).where(row.connection_id == connection_id, row.tenant_id == tenant_id)
        return await self._all(query.order_by(row.revision))

    async def of_tenant(self, tenant_id: str) -> Sequence[PendingRevocation]:
        """What is still to be revoked of a tenant."""
        row = PendingRevocation
        query = select(row).where(row.tenant_id == tenant_id)
        return await self._all(query.order_by(row.connection_id, row.revision))

    async def begin(self, row: PendingRevocation, *, next_attempt_at: datetime) -> bool:
        """Records an attempt before the provider is asked; False: somebody else made one.

        A process that dies during the attempt has thereby asked for the next one.
        """
        pending = PendingRevocation
        return await self._changed(
            update(pending)
            .where(
                pending.connection_id == row.connection_id,
                pending.revision == row.revision,
                pending.attempts == row.attempts,
            )
            .values(attempts=row.attempts + 1, next_attempt_at=next_attempt_at)
        )

    async def postpone(self, row: PendingRevocation, *, lines: Lines) -> None:
        """Remembers what the provider said; the next attempt stays as ``begin`` planned it."""
        pending = PendingRevocation
        await self._changed(
            update(pending)
            .where(pending.connection_id == row.connection_id, pending.revision == row.revision)
            .values(lines=_plain(lines))
        )
        await self._tell(row.tenant_id, row.connection_id, row.revision, lines)
        await self._audit(
            row.tenant_id,
            row.connection_id,
            "connection.revocation_failed",
            "system",
            revision=row.revision,
            tokens=_outcomes(lines),
        )

    async def finish(self, row: PendingRevocation, *, lines: Lines, given_up: bool) -> None:
        """Forgets the tokens; the receipt and the audit log say what became of them."""
        pending = PendingRevocation
        await self._session.execute(
            delete(pending).where(
                pending.connection_id == row.connection_id, pending.revision == row.revision
            ),
            execution_options={"synchronize_session": False},
        )
        await self._tell(row.tenant_id, row.connection_id, row.revision, lines)
        await self._audit(
            row.tenant_id,
            row.connection_id,
            "connection.revocation_given_up" if given_up else "connection.revoked",
            "system",
            revision=row.revision,
            tokens=_outcomes(lines),
        )

    async def give_up_soon(self, tenant_id: str) -> None:
        """The operator waits no longer: each row of the tenant gets its last attempt now."""
        pending = PendingRevocation
        changed = await self._changed(
            update(pending)
            .where(pending.tenant_id == tenant_id, pending.gives_up_at > self._now)
            .values(gives_up_at=self._now, next_attempt_at=self._now)
        )
        if changed:
            await self._journal.audit(
                tenant_id,
                action="tenant.revocation_hurried",
                actor="operator",
                target=tenant_id,
            )

    async def _tell(self, tenant_id: str, connection_id: str, revision: int, lines: Lines) -> None:
        """Writes the lines into the connection's receipt, unless it was connected again."""
        status = ConnectionStatus
        mine = (status.integration_id == connection_id, status.tenant_id == tenant_id)
        # Locked, because two renewals' tokens may be revoked at once into one receipt.
        row = await self._one(select(status).where(*mine).with_for_update())
        if row is None or row.state is not ConnectionState.DISCONNECTED or row.receipt is None:
            return
        others = [line for line in row.receipt["tokens"] if line.get("revision") != revision]
        told = [{"token": token, "revision": revision, **line} for token, line in lines.items()]
        tokens = sorted(others + told, key=lambda line: line.get("revision") or 0)
        await self._changed(
            update(status).where(*mine).values(receipt={**row.receipt, "tokens": tokens})
        )

    async def _audit(
        self, tenant_id: str, connection_id: str, action: str, actor: str, **metadata: Any
    ) -> None:
        await self._journal.audit(
            tenant_id,
            action=action,
            actor=actor,
            target=f"connection:{connection_id}",
            metadata=metadata,
        )


def _plain(lines: Lines) -> dict[str, Any]:
    return {token: dict(line) for token, line in lines.items()}


def _outcomes(lines: Lines) -> dict[str, Any]:
    return {
        token: {"outcome": line["outcome"], "detail": line["detail"]}
        for token, line in lines.items()
    }
