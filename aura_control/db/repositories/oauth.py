"""Authorizations under way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, update

from aura_control.db.models import OAuthTransaction
from aura_control.db.repositories.base import Repository

__all__ = ["OAuthTransactions"]


class OAuthTransactions(Repository):
    """From the redirect to the provider until its answer."""

    async def start(
        self,
        *,
        tenant_id: str,
        user_id: str,
        provider: str,
        auth_method: str,
        state_hash: str,
        verifier: str,
        binding_hash: str,
        redirect_uri: str,
        expires_at: datetime,
        agent_id: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Remembers an authorization; ``verifier`` is sealed, hashes are hexadecimal SHA-256.

        An empty ``binding_hash`` is a link that no browser has opened yet.
        """
        await self._require_user(tenant_id, user_id)
        await self._session.execute(
            insert(OAuthTransaction).values(
                state_hash=state_hash,
                tenant_id=tenant_id,
                user_id=user_id,
                provider=provider,
                auth_method=auth_method,
                agent_id=agent_id,
                verifier=verifier,
                binding_hash=binding_hash,
                redirect_uri=redirect_uri,
                config=dict(config or {}),
                created_at=self._now,
                expires_at=expires_at,
            )
        )
        await self._journal.audit(
            tenant_id,
            action="authorization.started",
            actor=f"user:{user_id}",
            target=provider,
            agent_id=agent_id,
            metadata={"auth_method": auth_method},
        )

    async def unopened(self, state_hash: str) -> OAuthTransaction | None:
        """An authorization that was started as a link and that no browser has taken up; None when
        it is unknown, expired or taken up."""
        return await self._one(select(OAuthTransaction).where(*self._unopened(state_hash)))

    async def bind(self, state_hash: str, *, binding_hash: str) -> OAuthTransaction | None:
        """Gives an authorization that was started as a link (``binding_hash`` empty) to the browser
        that takes it up, once; None when it is unknown, expired or another browser's already."""
        return await self._one(
            update(OAuthTransaction)
            .where(*self._unopened(state_hash))
            .values(binding_hash=binding_hash)
            .returning(OAuthTransaction)
        )

    def _unopened(self, state_hash: str) -> tuple[ColumnElement[bool], ...]:
        return (
            OAuthTransaction.state_hash == state_hash,
            OAuthTransaction.binding_hash == "",
            OAuthTransaction.used_at.is_(None),
            OAuthTransaction.expires_at > self._now,
        )

    async def consume(self, state_hash: str) -> OAuthTransaction | None:
        """The authorization, to exactly one caller; None when unknown, used or expired.

        The state finds the tenant. Being used is decided by the UPDATE alone, so that of two
        callbacks at the same time one gets nothing.
        """
        return await self._one(
            update(OAuthTransaction)
            .where(
                OAuthTransaction.state_hash == state_hash,
                OAuthTransaction.used_at.is_(None),
                OAuthTransaction.expires_at > self._now,
            )
            .values(used_at=self._now)
            .returning(OAuthTransaction)
        )

    async def forget(self, *, before: datetime) -> None:
        """Deletes what expired before; for the sweep, of all tenants."""
        await self._session.execute(
            delete(OAuthTransaction).where(OAuthTransaction.expires_at < before)
        )
