"""People."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from aura_control.db.models import User
from aura_control.db.repositories.base import Repository
from aura_core.errors import Conflict, NotFound

__all__ = ["Users"]


class Users(Repository):
    """The people of a tenant."""

    async def create(self, *, tenant_id: str, user_id: str, email: str, actor: str) -> User:
        """Adds a person; raises Conflict when somebody has this address already."""
        user = await self._one(
            self._insert(User)
            .values(id=user_id, tenant_id=tenant_id, email=email, created_at=self._now)
            .on_conflict_do_nothing()
            .returning(User)
        )
        if user is None:
            raise Conflict("This e-mail address is taken.")
        await self._journal.audit(
            tenant_id, action="user.created", actor=actor, target=f"user:{user_id}"
        )
        return user

    async def get(self, *, tenant_id: str, user_id: str) -> User:
        """Raises NotFound."""
        user = await self._one(select(User).where(User.id == user_id, User.tenant_id == tenant_id))
        if user is None:
            raise NotFound("There is no such user.")
        return user

    async def list(self, *, tenant_id: str) -> Sequence[User]:
        """The tenant's people, oldest first."""
        query = select(User).where(User.tenant_id == tenant_id)
        return await self._all(query.order_by(User.created_at, User.id))

    async def by_email(self, email: str) -> User | None:
        """For signing in: the address finds the tenant."""
        return await self._one(select(User).where(User.email == email))
