"""Events for people who watch.

The ids of one tenant's events follow its commits (``db.journal``), so whoever reads on from the
last id that it has seen misses nothing. Old events are deleted from the lowest id on and never in
between: a reader that stopped below the lowest one left may have missed some, and no other has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select

from aura_control.db.models import Event
from aura_control.db.repositories.base import Repository

__all__ = ["Events"]

_PRUNED_AT_ONCE = 5_000


class Events(Repository):
    """What a user sees of connections and agents as it happens."""

    def append(
        self,
        *,
        tenant_id: str,
        user_id: str,
        kind: str,
        data: Mapping[str, Any],
        agent_id: str | None = None,
        instance_id: str | None = None,
    ) -> None:
        """Adds an event; it gets its id when the transaction commits."""
        self._journal.publish(
            tenant_id,
            user_id=user_id,
            agent_id=agent_id,
            kind=kind,
            data=data,
            instance_id=instance_id,
        )

    async def after(
        self, *, tenant_id: str, agent_id: str, last_id: int = 0, limit: int = 100
    ) -> Sequence[Event]:
        """At most ``limit`` of the agent's events that follow ``last_id``, oldest first."""
        query = (
            select(Event)
            .where(Event.tenant_id == tenant_id, Event.agent_id == agent_id, Event.id > last_id)
            .order_by(Event.id)
            .limit(limit)
        )
        return await self._all(query)

    async def of_user(
        self, *, tenant_id: str, user_id: str, last_id: int = 0, limit: int = 100
    ) -> Sequence[Event]:
        """At most ``limit`` of all the user's events that follow ``last_id``, oldest first."""
        query = (
            select(Event)
            .where(Event.tenant_id == tenant_id, Event.user_id == user_id, Event.id > last_id)
            .order_by(Event.id)
            .limit(limit)
        )
        return await self._all(query)

    async def last_id(self, *, tenant_id: str, agent_id: str) -> int:
        """The newest event's id; 0 without any."""
        query = select(func.coalesce(func.max(Event.id), 0)).where(
            Event.tenant_id == tenant_id, Event.agent_id == agent_id
        )
        return (await self._session.execute(query)).scalar_one()

    async def newest(self, *, tenant_id: str, user_id: str) -> int:
        """The id of the user's newest event; 0 without any."""
        query = select(func.coalesce(func.max(Event.id), 0)).where(
            Event.tenant_id == tenant_id, Event.user_id == user_id
        )
        return (await self._session.execute(query)).scalar_one()

    async def pruned_after(self, last_id: int) -> bool:
        """Whether events that followed ``last_id`` were deleted. It may be wrong in saying so, for
        they may have been others' events; it is never wrong in denying it."""
        lowest = (await self._session.execute(select(func.min(Event.id)))).scalar_one()
        return lowest is not None and last_id + 1 < lowest

    async def prune(self, *, before: datetime) -> int:
        """Deletes some of the events from before, of all tenants; how many. To be repeated until
        it answers 0: each time is short, because writers wait for it.

        Events are copies of what the audit log says, for those who watch: deleting them is no
        change of state. The newest event stays, whatever its age, so that ids that were once given
        out can be told from those to come.
        """
        first_kept = (
            await self._session.execute(
                select(Event.id).where(Event.at >= before).order_by(Event.id).limit(1)
            )
        ).scalar_one_or_none()
        ends = (await self._session.execute(select(func.min(Event.id), func.max(Event.id)))).one()
        lowest, newest = ends[0] or 0, ends[1] or 0
        end = min(newest if first_kept is None else first_kept, lowest + _PRUNED_AT_ONCE)
        return await self._count(delete(Event).where(Event.id < end))
