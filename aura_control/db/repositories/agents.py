"""Agents and which connections they may use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import delete, insert, select, update

from aura_control.db.columns import new_id
from aura_control.db.models import Agent, AgentIntegration, AgentUsage
from aura_control.db.repositories.base import Repository
from aura_core.errors import NotFound

__all__ = ["Agents"]

_EDITABLE = frozenset({"name", "persona", "permissions", "config"})


class Agents(Repository):
    """The tenant's agents."""

    async def create(
        self,
        *,
        tenant_id: str,
        user_id: str,
        name: str,
        compute: str,
        runtime: str,
        persona: Mapping[str, Any],
        permissions: Mapping[str, Any],
        config: Mapping[str, Any],
        actor: str,
    ) -> Agent:
        """Adds an agent of one of the tenant's users; its instances are created apart."""
        await self._require_user(tenant_id, user_id)
        agent = await self._written(
            insert(Agent)
            .values(
                id=new_id(),
                tenant_id=tenant_id,
                user_id=user_id,
                name=name,
                compute=compute,
                runtime=runtime,
                persona=dict(persona),
                permissions=dict(permissions),
                config=dict(config),
                created_at=self._now,
                updated_at=self._now,
            )
            .returning(Agent)
        )
        await self._audit(tenant_id, agent.id, "agent.created", actor, {"name": name})
        return agent

    async def get(self, *, tenant_id: str, agent_id: str, to_change: bool = False) -> Agent:
        """Raises NotFound, for a deleted agent too. ``to_change`` keeps others from changing it
        until the transaction ends: what is written depends on what is read here."""
        query = select(Agent).where(
            Agent.id == agent_id, Agent.tenant_id == tenant_id, Agent.deleted_at.is_(None)
        )
        if to_change:
            query = query.with_for_update(key_share=True)
        agent = await self._one(query)
        if agent is None:
            raise NotFound("There is no such agent.")
        return agent

    async def list(self, *, tenant_id: str, user_id: str) -> Sequence[Agent]:
        """The user's agents, oldest first."""
        query = select(Agent).where(
            Agent.tenant_id == tenant_id, Agent.user_id == user_id, Agent.deleted_at.is_(None)
        )
        return await self._all(query.order_by(Agent.created_at, Agent.id))

    async def update(
        self, *, tenant_id: str, agent_id: str, changes: Mapping[str, Any], actor: str
    ) -> Agent:
        """Changes any of ``name``, ``persona``, ``permissions`` and ``config``; raises NotFound."""
        if not changes.keys() <= _EDITABLE:
            raise ValueError(f"not editable: {sorted(changes.keys() - _EDITABLE)}")
        await self.get(tenant_id=tenant_id, agent_id=agent_id)
        await self._changed(
            update(Agent)
            .where(Agent.id == agent_id, Agent.tenant_id == tenant_id)
            .values(**changes, updated_at=self._now)
        )
        await self._audit(tenant_id, agent_id, "agent.updated", actor, {"fields": sorted(changes)})
        return await self.get(tenant_id=tenant_id, agent_id=agent_id)

    async def delete(self, *, tenant_id: str, agent_id: str, actor: str) -> bool:
        """Whether there was an agent to delete; its machines are destroyed apart."""
        done = await self._changed(
            update(Agent)
            .where(Agent.id == agent_id, Agent.tenant_id == tenant_id, Agent.deleted_at.is_(None))
            .values(deleted_at=self._now, updated_at=self._now)
        )
        if done:
            await self._session.execute(delete(AgentUsage).where(AgentUsage.agent_id == agent_id))
            await self._audit(tenant_id, agent_id, "agent.deleted", actor, {})
        return done

    async def enable(self, *, tenant_id: str, agent_id: str, provider: str, actor: str) -> bool:
        """Lets the agent use its user's connection; whether that is new. Raises NotFound."""
        await self.get(tenant_id=tenant_id, agent_id=agent_id)
        added = await self._one(
            self._insert(AgentIntegration)
            .values(agent_id=agent_id, provider=provider, enabled_at=self._now)
            .on_conflict_do_nothing()
            .returning(AgentIntegration)
        )
        if added is not None:
            await self._audit(
                tenant_id, agent_id, "agent.integration_enabled", actor, {"provider": provider}
            )
        return added is not None

    async def disable(self, *, tenant_id: str, agent_id: str, provider: str, actor: str) -> bool:
        """Takes it back; whether the agent had it. Raises NotFound."""
        await self.get(tenant_id=tenant_id, agent_id=agent_id)
        removed = await self._one(
            delete(AgentIntegration)
            .where(AgentIntegration.agent_id == agent_id, AgentIntegration.provider == provider)
            .returning(AgentIntegration.provider)
        )
        if removed is not None:
            await self._audit(
                tenant_id, agent_id, "agent.integration_disabled", actor, {"provider": provider}
            )
        return removed is not None

    async def providers(self, *, tenant_id: str, agent_id: str) -> Sequence[str]:
        """The providers that the agent may use, sorted."""
        query = (
            select(AgentIntegration.provider)
            .join(Agent, Agent.id == AgentIntegration.agent_id)
            .where(Agent.id == agent_id, Agent.tenant_id == tenant_id)
        )
        return await self._all(query.order_by(AgentIntegration.provider))

    async def many(self, agent_ids: Collection[str]) -> Mapping[str, Agent]:
        """Agents by id, for the deliverer: the ids are those of machines, never of a request."""
        query = select(Agent).where(Agent.id.in_(agent_ids), Agent.deleted_at.is_(None))
        return {agent.id: agent for agent in await self._all(query)}

    async def providers_of(self, agent_ids: Collection[str]) -> Mapping[str, AbstractSet[str]]:
        """:meth:`providers` of many agents, by agent."""
        query = select(AgentIntegration.agent_id, AgentIntegration.provider).where(
            AgentIntegration.agent_id.in_(agent_ids)
        )
        found: dict[str, set[str]] = {agent_id: set() for agent_id in agent_ids}
        for agent_id, provider in await self._session.execute(query):
            found[agent_id].add(provider)
        return found

    async def using(self, *, tenant_id: str, user_id: str, provider: str) -> Sequence[Agent]:
        """The user's agents that may use the provider: those that a new credential concerns."""
        query = (
            select(Agent)
            .join(AgentIntegration, AgentIntegration.agent_id == Agent.id)
            .where(
                Agent.tenant_id == tenant_id,
                Agent.user_id == user_id,
                Agent.deleted_at.is_(None),
                AgentIntegration.provider == provider,
            )
        )
        return await self._all(query.order_by(Agent.created_at, Agent.id))

    async def _audit(
        self, tenant_id: str, agent_id: str, action: str, actor: str, metadata: dict[str, Any]
    ) -> None:
        await self._journal.audit(
            tenant_id,
            action=action,
            actor=actor,
            target=f"agent:{agent_id}",
            agent_id=agent_id,
            metadata=metadata,
        )
