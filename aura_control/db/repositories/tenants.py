"""Tenants and what their keys commit to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, insert, or_, select, update

from aura_control.db.chain import Anchor
from aura_control.db.models import (
    ApiToken,
    AuditAnchor,
    Delivery,
    Instance,
    OAuthTransaction,
    Tenant,
    TenantKey,
    User,
)
from aura_control.db.repositories.base import Repository
from aura_core.errors import Conflict, NotFound

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

    async def find(self, name: str) -> Tenant:
        """The tenant of that id, or the only one of that name. Raises NotFound and Conflict."""
        found = await self._all(select(Tenant).where(or_(Tenant.id == name, Tenant.name == name)))
        if not found:
            raise NotFound(f"There is no tenant {name!r}.", hint="See 'aura tenants list'.")
        if len(found) > 1:
            raise Conflict(f"{len(found)} tenants are called {name!r}.", hint="Give the id.")
        return found[0]

    async def deleting(self) -> Sequence[Tenant]:
        """Tenants whose deletion was asked for and is not finished, the longest waiting first."""
        query = select(Tenant).where(Tenant.deleting_at.is_not(None), Tenant.deleted_at.is_(None))
        return await self._all(query.order_by(Tenant.deleting_at, Tenant.id))

    async def begin_deletion(self, tenant_id: str, *, actor: str) -> bool:
        """Asks for the deletion and ends every access at once: API tokens, and authorizations
        under way. False: it was asked for before."""
        asked = await self._changed(
            update(Tenant)
            .where(Tenant.id == tenant_id, Tenant.deleting_at.is_(None))
            .values(deleting_at=self._now)
        )
        if not asked:
            return False
        mine = ApiToken.tenant_id == tenant_id, ApiToken.revoked_at.is_(None)
        await self._changed(update(ApiToken).where(*mine).values(revoked_at=self._now))
        await self._session.execute(
            delete(OAuthTransaction).where(OAuthTransaction.tenant_id == tenant_id),
            execution_options={"synchronize_session": False},
        )
        await self._journal.audit(
            tenant_id, action="tenant.deletion_asked", actor=actor, target=tenant_id
        )
        return True

    async def shred(
        self, tenant_id: str, *, actor: str, receipt: Mapping[str, Any] | None = None
    ) -> None:
        """Destroys the salt: nothing of the tenant's opens again, and its audit log is closed.

        Destroy its machines first, since no later step of theirs could be audited. People's
        addresses go too: they are free for a new account.
        """
        told = None if receipt is None else dict(receipt)
        await self._journal.audit(
            tenant_id,
            action="tenant.shredded",
            actor=actor,
            target=tenant_id,
            metadata={} if told is None else {"receipt": told},
        )
        mine = Tenant.id == tenant_id
        await self._changed(update(Tenant).where(mine).values(kdf_salt=None, receipt=told))
        await self._changed(
            update(User).where(User.tenant_id == tenant_id).values(email="deleted:" + User.id)
        )
        await self._changed(
            update(Instance).where(Instance.tenant_id == tenant_id).values(gateway_token=None)
        )
        await self._changed(
            update(Delivery).where(Delivery.tenant_id == tenant_id).values(message=None)
        )

    async def finish_deletion(self, tenant_id: str) -> None:
        """Says that nothing is left to do. The last entry of the audit log is that of the
        shredding: with the salt went the key to write another."""
        mine = Tenant.id == tenant_id, Tenant.kdf_salt.is_(None)
        await self._changed(update(Tenant).where(*mine).values(deleted_at=self._now))
