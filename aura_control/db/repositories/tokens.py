"""API tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, insert, or_, select, update

from aura_control.db.columns import new_id
from aura_control.db.models import ApiToken, Tenant, User
from aura_control.db.repositories.base import Repository
from aura_core.errors import Conflict

__all__ = ["Principal", "Tokens"]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Whom a token speaks for."""

    tenant_id: str
    user_id: str
    email: str
    token_id: str

    @property
    def actor(self) -> str:
        """How the audit log names this person."""
        return f"user:{self.user_id}"


class Tokens(Repository):
    """Bearer tokens, known by their SHA-256 (hexadecimal) only."""

    async def issue(
        self,
        *,
        tenant_id: str,
        user_id: str,
        name: str,
        token_hash: str,
        expires_at: datetime | None,
        actor: str,
    ) -> ApiToken:
        """Adds a token to one of the tenant's users; raises NotFound for any other user, and
        Conflict while the tenant is being deleted."""
        await self._require_user(tenant_id, user_id)
        deleting = select(Tenant.id).where(Tenant.id == tenant_id, Tenant.deleting_at.is_not(None))
        if await self._one(deleting) is not None:
            raise Conflict("This tenant is being deleted: nobody signs in to it any more.")
        token = await self._written(
            insert(ApiToken)
            .values(
                id=new_id(),
                tenant_id=tenant_id,
                user_id=user_id,
                name=name,
                token_hash=token_hash,
                created_at=self._now,
                expires_at=expires_at,
            )
            .returning(ApiToken)
        )
        await self._journal.audit(
            tenant_id,
            action="token.issued",
            actor=actor,
            target=f"token:{token.id}",
            metadata={"name": name, "user_id": user_id},
        )
        return token

    async def lives(self, principal: Principal) -> bool:
        """Whether the principal's token is still good, for answers that take longer than a moment:
        whoever revokes a stolen token ends what it opened, too."""
        query = select(ApiToken.id).where(ApiToken.id == principal.token_id, *self._alive())
        return (await self._session.execute(query)).first() is not None

    def _alive(self) -> tuple[ColumnElement[bool], ...]:
        return (
            ApiToken.revoked_at.is_(None),
            or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > self._now),
        )

    async def authenticate(self, token_hash: str) -> Principal | None:
        """Whom the token speaks for; None when unknown, expired or revoked. Finds the tenant."""
        query = (
            select(ApiToken, User.email)
            .join(User, User.id == ApiToken.user_id)
            .where(
                ApiToken.token_hash == token_hash,
                *self._alive(),
            )
        )
        row = (await self._session.execute(query)).one_or_none()
        if row is None:
            return None
        token, email = row
        return Principal(
            tenant_id=token.tenant_id, user_id=token.user_id, email=email, token_id=token.id
        )

    async def list(self, *, tenant_id: str, user_id: str) -> Sequence[ApiToken]:
        """The user's tokens, revoked ones too, oldest first."""
        query = select(ApiToken).where(ApiToken.tenant_id == tenant_id, ApiToken.user_id == user_id)
        return await self._all(query.order_by(ApiToken.created_at, ApiToken.id))

    async def revoke(self, *, tenant_id: str, token_id: str, actor: str) -> bool:
        """Whether there was a valid token to revoke."""
        done = await self._changed(
            update(ApiToken)
            .where(
                ApiToken.id == token_id,
                ApiToken.tenant_id == tenant_id,
                ApiToken.revoked_at.is_(None),
            )
            .values(revoked_at=self._now)
        )
        if done:
            await self._journal.audit(
                tenant_id, action="token.revoked", actor=actor, target=f"token:{token_id}"
            )
        return done
