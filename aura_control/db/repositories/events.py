"""Events for people who watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from aura_control.db.models import Event
from aura_control.db.repositories.base import Repository

__all__ = ["Events"]


class Events(Repository):
    """What an agent's watchers see."""

    def append(
        self,
        *,
        tenant_id: str,
        agent_id: str,
        kind: str,
        data: Mapping[str, Any],
        instance_id: str | None = None,
    ) -> None:
        """Adds an event; it gets its id when the transaction commits."""
        self._journal.publish(
            tenant_id, agent_id=agent_id, kind=kind, data=data, instance_id=instance_id
        )

    async def after(
        self, *, tenant_id: str, agent_id: str, last_id: int = 0, limit: int = 100
    ) -> Sequence[Event]:
        """At most ``limit`` events that follow ``last_id``, oldest first."""
        query = (
            select(Event)
            .where(Event.tenant_id == tenant_id, Event.agent_id == agent_id, Event.id > last_id)
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
