"""What belongs to many machines at once: their agents, connections and deliveries.

A credential that a thousand machines use is delivered to all of them together; what each needs is
read in one statement for each kind of row, not in five for each machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from aura_control.db.connection import Connection
from aura_control.db.models import Agent, Delivery, Instance
from aura_control.db.transaction import Transaction
from aura_core.errors import NotFound

__all__ = ["EVERY_INTEGRATION", "Surroundings"]

EVERY_INTEGRATION = "every_integration"
"""The key in ``agents.config`` that says that the agent uses all of its user's connections."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Read in one transaction; true in it."""

    agents: Mapping[str, Agent]
    providers: Mapping[str, AbstractSet[str]]
    """Enabled ones, by agent."""
    connections: Mapping[tuple[str, str], Sequence[Connection]]
    """By tenant and user, disconnected ones too."""
    deliveries: Mapping[str, Sequence[Delivery]]
    """By instance."""

    @classmethod
    async def read(
        cls, tx: Transaction, instances: Sequence[Instance], *, deliveries: bool = False
    ) -> Surroundings:
        """Reads what belongs to the machines; their deliveries only when asked."""
        agent_ids = {instance.agent_id for instance in instances}
        rows: Mapping[str, Sequence[Delivery]] = {}
        if deliveries:
            rows = await tx.deliveries.of_instances({instance.id for instance in instances})
        return cls(
            agents=await tx.agents.many(agent_ids),
            providers=await tx.agents.providers_of(agent_ids),
            connections=await tx.integrations.of_users({one.user_id for one in instances}),
            deliveries=rows,
        )

    def agent(self, instance: Instance) -> Agent:
        """The agent that runs on the machine. Raises NotFound when it was deleted."""
        agent = self.agents.get(instance.agent_id)
        if agent is None or agent.tenant_id != instance.tenant_id:
            raise NotFound("There is no such agent.")
        return agent

    def may_use(self, instance: Instance, provider: str) -> bool:
        """Whether the machine's agent uses its user's connection to the provider; one that was
        deleted uses none."""
        agent = self.agents.get(instance.agent_id)
        if agent is None or agent.tenant_id != instance.tenant_id:
            return False
        if agent.config.get(EVERY_INTEGRATION):
            return True
        return provider in self.providers[agent.id]

    def used_by(self, instance: Instance) -> Sequence[Connection]:
        """The connections that the machine's agent uses."""
        return [
            connection
            for connection in self.connections.get((instance.tenant_id, instance.user_id), ())
            if self.may_use(instance, connection.provider)
        ]

    def connection(self, instance: Instance, connection_id: str) -> Connection | None:
        """The connection of the machine's user with this id."""
        for connection in self.connections.get((instance.tenant_id, instance.user_id), ()):
            if connection.id == connection_id:
                return connection
        return None
