"""What all repositories share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlalchemy import CursorResult, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import Delete, Insert, Update
from sqlalchemy.sql.selectable import TypedReturnsRows

from aura_control.db.columns import Base
from aura_control.db.journal import Journal
from aura_control.db.models import User
from aura_control.db.statements import insert_or
from aura_core.errors import NotFound

__all__ = ["Repository"]

Row = TypeVar("Row")

# A row that was read before must be seen as it is now: on PostgreSQL another transaction may
# have committed in between, and the session would answer from memory.
_FRESH = {"populate_existing": True, "synchronize_session": False}


class Repository:
    """Queries about one thing, within one transaction."""

    def __init__(self, session: AsyncSession, journal: Journal, now: datetime) -> None:
        self._session = session
        self._journal = journal
        self._now = now

    async def _one(self, query: TypedReturnsRows[Row]) -> Row | None:
        found = await self._session.execute(query, execution_options=_FRESH)
        return found.scalar_one_or_none()

    async def _written(self, statement: TypedReturnsRows[Row]) -> Row:
        """The row that an unconditional write returns."""
        return (await self._session.execute(statement, execution_options=_FRESH)).scalar_one()

    async def _all(self, query: TypedReturnsRows[Row]) -> Sequence[Row]:
        return (await self._session.execute(query, execution_options=_FRESH)).scalars().all()

    async def _changed(self, statement: Update) -> bool:
        """Runs an UPDATE that is conditional on what was read: whether it found its row."""
        return bool(await self._count(statement))

    async def _count(self, statement: Update | Delete) -> int:
        """How many rows an UPDATE or DELETE found."""
        result = await self._session.execute(
            statement, execution_options={"synchronize_session": False}
        )
        return cast("CursorResult[Any]", result).rowcount

    async def _many(self, statement: Insert | Update, rows: Sequence[Mapping[str, Any]]) -> None:
        """Runs an INSERT or UPDATE once for each row of values, as one round trip."""
        if rows:
            connection = await self._session.connection()
            await connection.execute(statement, [*rows])

    async def _require_user(self, tenant_id: str, user_id: str) -> None:
        """Raises NotFound unless the user is one of the tenant's."""
        known = select(User.id).where(User.id == user_id, User.tenant_id == tenant_id)
        if await self._one(known) is None:
            raise NotFound("There is no such user.")

    def _insert(self, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
        return insert_or(self._session, table)
