"""What all repositories share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import CursorResult, Select, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate, Update

from aura_control.db.columns import Base
from aura_control.db.journal import Journal
from aura_control.db.models import User
from aura_control.db.statements import insert_or
from aura_core.errors import NotFound

__all__ = ["Repository"]

Row = TypeVar("Row")

# A row that was read before must be seen as it is now: on PostgreSQL another transaction may
# have committed in between, and the session would answer from memory.
_FRESH = {"populate_existing": True}


class Repository:
    """Queries about one thing, within one transaction."""

    def __init__(self, session: AsyncSession, journal: Journal, now: datetime) -> None:
        self._session = session
        self._journal = journal
        self._now = now

    async def _one(
        self, query: Select[tuple[Row]] | ReturningInsert[tuple[Row]] | ReturningUpdate[tuple[Row]]
    ) -> Row | None:
        found = await self._session.execute(query, execution_options=_FRESH)
        return found.scalar_one_or_none()

    async def _all(
        self, query: Select[tuple[Row]] | ReturningUpdate[tuple[Row]]
    ) -> Sequence[Row]:
        return (await self._session.execute(query, execution_options=_FRESH)).scalars().all()

    async def _changed(self, statement: Update) -> bool:
        """Runs an UPDATE that is conditional on what was read: whether it found its row."""
        result = await self._session.execute(
            statement, execution_options={"synchronize_session": False}
        )
        assert isinstance(result, CursorResult)
        return bool(result.rowcount)

    async def _require_user(self, tenant_id: str, user_id: str) -> None:
        """Raises NotFound unless the user is one of the tenant's."""
        known = select(User.id).where(User.id == user_id, User.tenant_id == tenant_id)
        if await self._one(known) is None:
            raise NotFound("There is no such user.")

    def _insert(self, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
        return insert_or(self._session, table)
