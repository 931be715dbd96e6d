"""Instances: their states, and what is known of the machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from aura_control.db.columns import new_id
from aura_control.db.models import NEXT_STATES, Agent, Instance, InstanceState
from aura_control.db.repositories.enrolment import Enrolment
from aura_core.errors import NotFound

__all__ = ["Instances"]


class Instances(Enrolment):
    """The machines that run agents."""

    async def create(
        self,
        *,
        tenant_id: str,
        agent_id: str,
        compute: str,
        actor: str,
        instance_id: str | None = None,
    ) -> Instance:
        """Adds an instance in the state ``requested``; raises NotFound without the agent.

        Its ``machine_name`` is ``aura-<id>``: nothing but the id is needed to find the machine.
        """
        owner = select(Agent).where(
            Agent.id == agent_id, Agent.tenant_id == tenant_id, Agent.deleted_at.is_(None)
        )
        agent = await self._one(owner)
        if agent is None:
            raise NotFound("There is no such agent.")
        instance_id = instance_id or new_id()
        instance = await self._written(
            insert(Instance)
            .values(
                id=instance_id,
                tenant_id=tenant_id,
                user_id=agent.user_id,
                agent_id=agent_id,
                compute=compute,
                state=InstanceState.REQUESTED,
                machine_name=f"aura-{instance_id}",
                heartbeat_issued_at=0,
                health={},
                left_to_daemon=[],
                created_at=self._now,
                updated_at=self._now,
            )
            .returning(Instance)
        )
        await self._announce(instance, "instance.requested", actor, {"state": "requested"})
        return instance

    async def get(self, *, tenant_id: str, instance_id: str) -> Instance:
        """Raises NotFound."""
        instance = await self._one(
            select(Instance).where(Instance.id == instance_id, Instance.tenant_id == tenant_id)
        )
        if instance is None:
            raise NotFound("There is no such instance.")
        return instance

    async def of_tenant(self, tenant_id: str) -> Sequence[Instance]:
        """All instances of a tenant, destroyed ones too, oldest first."""
        query = select(Instance).where(Instance.tenant_id == tenant_id)
        return await self._all(query.order_by(Instance.created_at, Instance.id))

    async def for_agent(self, *, tenant_id: str, agent_id: str) -> Sequence[Instance]:
        """The agent's instances, newest first, destroyed ones too."""
        query = select(Instance).where(
            Instance.tenant_id == tenant_id, Instance.agent_id == agent_id
        )
        return await self._all(query.order_by(Instance.created_at.desc(), Instance.id))

    async def for_user(
        self, *, tenant_id: str, user_id: str, states: Collection[InstanceState]
    ) -> Sequence[Instance]:
        """The user's instances in these states."""
        query = select(Instance).where(
            Instance.tenant_id == tenant_id,
            Instance.user_id == user_id,
            Instance.state.in_(states),
        )
        return await self._all(query.order_by(Instance.created_at, Instance.id))

    async def due(
        self, *, states: Collection[InstanceState], before: datetime, limit: int = 100
    ) -> Sequence[Instance]:
        """Instances of all tenants that did not change since ``before``, for the sweeps."""
        query = select(Instance).where(Instance.state.in_(states), Instance.updated_at < before)
        return await self._all(query.order_by(Instance.updated_at, Instance.id).limit(limit))

    async def silent(
        self, *, states: Collection[InstanceState], since: datetime, limit: int = 100
    ) -> Sequence[Instance]:
        """Instances of all tenants whose last heartbeat is older than ``since``."""
        query = select(Instance).where(
            Instance.state.in_(states), Instance.last_heartbeat_at < since
        )
        return await self._all(query.order_by(Instance.last_heartbeat_at, Instance.id).limit(limit))

    async def transition(
        self,
        *,
        tenant_id: str,
        instance_id: str,
        from_states: Collection[InstanceState],
        to_state: InstanceState,
        reason: str | None = None,
        actor: str = "system",
    ) -> bool:
        """Moves the instance on, with its event and audit entry; False: it is in another state.

        Raises ValueError for a transition that does not exist (``NEXT_STATES``).
        """
        wrong = sorted(state for state in from_states if to_state not in NEXT_STATES[state])
        if wrong:
            raise ValueError(f"an instance cannot become {to_state} from {', '.join(wrong)}")
        instance = await self._one(
            update(Instance)
            .where(
                Instance.id == instance_id,
                Instance.tenant_id == tenant_id,
                Instance.state.in_(from_states),
            )
            .values(state=to_state, state_reason=reason, updated_at=self._now)
            .returning(Instance)
        )
        if instance is None:
            return False
        data = {"state": to_state.value, "reason": reason}
        await self._announce(instance, f"instance.{to_state.value}", actor, data)
        return True

    async def record_composed(
        self,
        *,
        tenant_id: str,
        instance_id: str,
        user_data_size: int,
        left_to_daemon: Sequence[str],
    ) -> None:
        """Remembers how large the user-data is (bytes) and which skills it leaves out."""
        await self._record(
            tenant_id,
            instance_id,
            "instance.composed",
            {"user_data_size": user_data_size, "left_to_daemon": [*left_to_daemon]},
        )

    async def record_external(
        self, *, tenant_id: str, instance_id: str, external_id: str, push_url: str | None
    ) -> None:
        """Remembers the machine that the compute made and where its daemon listens."""
        await self._record(
            tenant_id,
            instance_id,
            "instance.machine_created",
            {"external_id": external_id, "push_url": push_url},
        )

    async def record_reachable(self, *, tenant_id: str, instance_id: str, push_url: str) -> None:
        """Remembers where the daemon listens now; it may have moved."""
        await self._record(tenant_id, instance_id, "instance.reachable", {"push_url": push_url})

    async def record_destroyed(self, *, tenant_id: str, instance_id: str) -> None:
        """Remembers that the compute has no machine of this name any more."""
        await self._record(
            tenant_id,
            instance_id,
            "instance.machine_destroyed",
            {"external_id": None, "push_url": None},
        )

    async def _record(
        self, tenant_id: str, instance_id: str, action: str, values: dict[str, Any]
    ) -> None:
        instance = await self._one(
            update(Instance)
            .where(Instance.id == instance_id, Instance.tenant_id == tenant_id)
            .values(**values, updated_at=self._now)
            .returning(Instance)
        )
        if instance is None:
            raise NotFound("There is no such instance.")
        await self._announce(instance, action, "system", values)
