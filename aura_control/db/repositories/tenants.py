"""Tenants and what is known of their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, text, update

from aura_control.db.chain import Anchor
from aura_control.db.models import (
    ApiToken,
    AuditAnchor,
    Delivery,
    Instance,
    OAuthTransaction,
    RetiredKey,
    Tenant,
    TenantKey,
    User,
)
from aura_control.db.repositories.base import Repository
from aura_core.errors import Conflict, NotFound, Unavailable

__all__ = ["KeyRecord", "Tenants"]

_KEYS_LOCK = 0x6B657973  # "keys": sealing shares it, retiring a key has it alone


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What is recorded of a tenant's key under one master key."""

    commitment: bytes
    uses: int
    """Seals that processes have reserved."""
    retired: bool


class Tenants(Repository):
    """The customers."""

    async def create(self, *, tenant_id: str, name: str, kdf_salt: bytes, actor: str) -> Tenant:
        """Adds a tenant with its 32 random bytes of salt, its audit key and its chain's anchor."""
        if len(kdf_salt) != 32:
            raise ValueError("a tenant's salt is 32 bytes")
        audit_key = self._journal.new_key(tenant_id, kdf_salt)
        await self.hold_keys()
        if await self.retired_at(audit_key.kid) is not None:
            raise Unavailable("The master keys changed a moment ago.", hint="Try again.")
        await self._session.execute(
            insert(Tenant).values(
                id=tenant_id,
                name=name,
                kdf_salt=kdf_salt,
                audit_key=audit_key.sealed,
                created_at=self._now,
            )
        )
        await self.reserve_uses(
            tenant_id, kid=audit_key.kid, commitment=audit_key.commitment, count=1
        )
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

    async def keys(self, tenant_id: str) -> Mapping[str, KeyRecord]:
        """What is recorded of the tenant's keys, by the master key's id."""
        query = (
            select(TenantKey, RetiredKey.kid)
            .outerjoin(RetiredKey, RetiredKey.kid == TenantKey.kid)
            .where(TenantKey.tenant_id == tenant_id)
        )
        rows = await self._session.execute(query, execution_options={"populate_existing": True})
        return {
            row.kid: KeyRecord(
                commitment=row.commitment, uses=row.uses, retired=retired is not None
            )
            for row, retired in rows
        }

    async def reserve_uses(
        self, tenant_id: str, *, kid: str, commitment: bytes, count: int
    ) -> KeyRecord:
        """Reserves ``count`` seals; the first one for a key also records what it commits to, and
        that stays, whatever comes later."""
        row = await self._written(
            self._insert(TenantKey)
            .values(tenant_id=tenant_id, kid=kid, commitment=commitment, uses=count)
            .on_conflict_do_update(
                index_elements=[TenantKey.tenant_id, TenantKey.kid],
                set_={"uses": TenantKey.uses + count},
            )
            .returning(TenantKey)
        )
        return KeyRecord(commitment=row.commitment, uses=row.uses, retired=False)

    async def most_uses(self) -> Mapping[str, int]:
        """The most seals that any tenant's key has reserved, by the master key's id."""
        query = select(TenantKey.kid, func.max(TenantKey.uses)).group_by(TenantKey.kid)
        return {row[0]: row[1] for row in await self._session.execute(query)}

    async def hold_keys(self, *, alone: bool = False) -> None:
        """Keeps keys from being retired until the transaction ends; ``alone``, also from being
        sealed under.

        A process that has not noticed a new keyring yet may be about to store what it sealed under
        an old key when that key is retired: so whoever seals shares this lock, and whoever retires
        has it alone while it counts. On SQLite every writing transaction is alone.
        """
        if self._session.info.get("holds_keys") and not alone:
            return
        self._session.info["holds_keys"] = True
        if self._session.get_bind().dialect.name == "postgresql":
            lock = "pg_advisory_xact_lock" + ("" if alone else "_shared")
            await self._session.execute(text(f"SELECT {lock}(:key)"), {"key": _KEYS_LOCK})

    async def retired_at(self, kid: str) -> datetime | None:
        """When the master key was retired; None for one that was not."""
        return await self._one(select(RetiredKey.retired_at).where(RetiredKey.kid == kid))

    async def retire_key(self, kid: str) -> None:
        """From this commit on nothing is sealed under the master key, by any process."""
        await self._session.execute(
            self._insert(RetiredKey).values(kid=kid, retired_at=self._now).on_conflict_do_nothing()
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
