"""Tenants and what their keys commit to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta

from sqlalchemy import insert, select, update

from aura_control.db.chain import Anchor
from aura_control.db.models import AuditAnchor, Tenant, TenantKey
from aura_control.db.repositories.base import Repository
from aura_core.errors import NotFound

__all__ = ["Tenants"]


class Tenants(Repository):
    """The customers."""

    async def create(self, *, tenant_id: str, name: str, kdf_salt: bytes, actor: str) -> Tenant:
        """Adds a tenant with its 32 random bytes of salt, its audit key and its chain's anchor."""
        if len(kdf_salt) != 32:
            raise ValueError("a tenant's salt is 32 bytes")
        audit_key = self._journal.new_key(tenant_id, kdf_salt)
        await self._session.execute(
            insert(Tenant).values(
                id=tenant_id,
                name=name,
                kdf_salt=kdf_salt,
                audit_key=audit_key.sealed,
                created_at=self._now,
            )
        )
        await self.record_commitment(tenant_id, kid=audit_key.kid, commitment=audit_key.commitment)
        anchor = Anchor(tenant_id=tenant_id).sealed(await self._journal.key(tenant_id))
        await self._session.execute(
            insert(AuditAnchor).values(
                **asdict(anchor), prune_due_at=self._now + timedelta(days=anchor.retention_days)
            )
        )
        await self._journal.audit(tenant_id, action="tenant.created", actor=actor, target=tenant_id)
        return await self.get(tenant_id)

    async def get(self, tenant_id: str) -> Tenant:
        """Raises NotFound."""
        tenant = await self._one(select(Tenant).where(Tenant.id == tenant_id))
        if tenant is None:
            raise NotFound("There is no such tenant.")
        return tenant

    async def list(self) -> Sequence[Tenant]:
        """All tenants, for the operator."""
        return await self._all(select(Tenant).order_by(Tenant.created_at, Tenant.id))

    async def commitments(self, tenant_id: str) -> Mapping[str, bytes]:
        """What the tenant's key under each master key (by key id) commits to."""
        rows = await self._all(select(TenantKey).where(TenantKey.tenant_id == tenant_id))
        return {row.kid: row.commitment for row in rows}

    async def record_commitment(self, tenant_id: str, *, kid: str, commitment: bytes) -> None:
        """Remembers a commitment; the first one for a key stays, whatever comes later."""
        await self._session.execute(
            self._insert(TenantKey)
            .values(tenant_id=tenant_id, kid=kid, commitment=commitment)
            .on_conflict_do_nothing()
        )

    async def shred(self, tenant_id: str, *, actor: str) -> None:
        """Destroys the salt: nothing of the tenant's opens again, and its audit log is closed.

        Destroy its machines first, since no later step of theirs could be audited.
        """
        await self._journal.audit(
            tenant_id, action="tenant.shredded", actor=actor, target=tenant_id
        )
        await self._changed(update(Tenant).where(Tenant.id == tenant_id).values(kdf_salt=None))
