"""What agents used of their limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import delete, func, select

from aura_control.db.models import Agent, AgentUsage, RefusalMark
from aura_control.db.repositories.base import Repository
from aura_core.errors import NotFound
from aura_core.permissions import DAY, Count, minute_of

__all__ = ["CONTROL", "Limits"]

CONTROL = "control"
"""The source of what the control plane itself counts."""


class Limits(Repository):
    """Counts by agent, source and minute. Sources are added up; none can write another's."""

    async def lock(self, *, tenant_id: str, agent_id: str) -> None:
        """Hold the agent's counts until the transaction ends: whoever checks and then counts does
        it alone, in whichever process. Raises NotFound.

        On SQLite a writing transaction is alone in any case. On PostgreSQL the row of the agent is
        locked, and the statements after this one see what was committed before it returned.
        """
        query = select(Agent.id).where(Agent.id == agent_id, Agent.tenant_id == tenant_id)
        if await self._one(query.with_for_update(key_share=True)) is None:
            raise NotFound("There is no such agent.")

    async def counts(
        self,
        *,
        tenant_id: str,
        agent_id: str,
        whats: Collection[str],
        since: int,
        but: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Count]:
        """What all sources (``but`` one) counted from the minute ``since`` on, oldest first."""
        query = (
            select(AgentUsage.what, AgentUsage.minute, func.sum(AgentUsage.number))
            .where(
                AgentUsage.agent_id == agent_id,
                AgentUsage.tenant_id == tenant_id,
                AgentUsage.what.in_(whats),
                AgentUsage.minute >= since,
            )
            .group_by(AgentUsage.what, AgentUsage.minute)
            .order_by(AgentUsage.minute, AgentUsage.what)
            .limit(limit)
        )
        if but is not None:
            query = query.where(AgentUsage.source != but)
        found = await self._session.execute(query)
        return [Count(what, minute, int(number)) for what, minute, number in found]

    async def add(
        self, *, tenant_id: str, agent_id: str, source: str, counts: Iterable[Count]
    ) -> None:
        """Count more, or with a negative number take back."""
        for what, minute, number in counts:
            statement = self._insert(AgentUsage).values(
                agent_id=agent_id,
                source=source,
                what=what,
                minute=minute,
                number=max(0, number),
                tenant_id=tenant_id,
            )
            more = AgentUsage.number + number
            await self._session.execute(
                statement.on_conflict_do_update(
                    index_elements=["agent_id", "source", "what", "minute"],
                    set_={"number": more},
                    where=more >= 0,
                )
            )
        await self._forget(agent_id)

    async def put(
        self, *, tenant_id: str, agent_id: str, source: str, counts: Sequence[Count]
    ) -> None:
        """Replace what a source counted in these minutes: repeating it changes nothing."""
        rows = [
            {
                "agent_id": agent_id,
                "source": source,
                "what": count.what,
                "minute": count.minute,
                "number": count.number,
                "tenant_id": tenant_id,
            }
            for count in counts
        ]
        if not rows:
            return
        statement = self._insert(AgentUsage).values(rows)
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["agent_id", "source", "what", "minute"],
                set_={"number": statement.excluded.number},
            )
        )
        await self._forget(agent_id)

    async def mark(self, *, tenant_id: str, instance_id: str) -> int:
        """The number of the last refused call that was taken from the machine; 0 before any."""
        query = select(RefusalMark.seq).where(
            RefusalMark.instance_id == instance_id, RefusalMark.tenant_id == tenant_id
        )
        return (await self._session.execute(query)).scalar_one_or_none() or 0

    async def move_mark(self, *, tenant_id: str, instance_id: str, seq: int) -> None:
        """Remember that all up to ``seq`` were taken."""
        statement = self._insert(RefusalMark).values(
            instance_id=instance_id, tenant_id=tenant_id, seq=seq
        )
        await self._session.execute(
            statement.on_conflict_do_update(index_elements=["instance_id"], set_={"seq": seq})
        )

    async def _forget(self, agent_id: str) -> None:
        oldest = minute_of(self._now) - DAY - 1
        await self._session.execute(
            delete(AgentUsage).where(AgentUsage.agent_id == agent_id, AgentUsage.minute < oldest)
        )
