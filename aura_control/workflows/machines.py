"""The steps that both provisioning and destroying take at a compute and in the database.

Each step is one transaction or one request to a compute, and may be repeated: a process that dies
between doing it and recording that it was done does it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from aura_control.db.engine import Database
from aura_control.db.models import Instance
from aura_control.db.models import InstanceState as S
from aura_control.ports import Deliverer
from aura_control.services.composing import Composer
from aura_control.services.delivery import desire_all
from aura_control.services.enrolment import hashed, join_token
from aura_control.services.heartbeats import settled
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.workflows.outcome import Outcome, done, failed
from aura_core.compute import Compute, MachineRequest
from aura_core.errors import ConfigurationError
from cloudinit_templates import Composed

__all__ = ["SHOULD_BE_ON", "MachineSteps", "Timings"]

SHOULD_BE_ON = (S.ENROLLING, S.RUNNING, S.DEGRADED)
"""States of an instance whose machine was made and was not switched off on purpose."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How long things may take, in seconds."""

    join: float = 900.0
    """From the join token to the enrolment; the token lives as long."""
    healthy: float = 300.0
    """From the enrolment to the first heartbeat of a machine that works."""
    retries: tuple[float, ...] = (1.0, 2.0, 5.0, 15.0, 30.0)
    """Waits between attempts at a compute, when making a machine; then the instance fails."""
    longest_wait: float = 300.0
    """Destroying is never given up; its waits double up to this."""


class MachineSteps:
    """Made once by the composition root."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        composer: Composer,
        providers: Providers,
        computes: Mapping[str, Compute],
        deliverer: Deliverer,
        timings: Timings,
    ) -> None:
        self._database = database
        self._vault = vault
        self._composer = composer
        self._providers = providers
        self._computes = computes
        self._deliverer = deliverer
        self._timings = timings

    async def begin(self, tenant_id: str, instance_id: str) -> Outcome:
        """``requested`` to ``provisioning``."""
        async with self._database.transaction() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state is S.PROVISIONING:
                return done()
            moved = await tx.instances.transition(
                tenant_id=tenant_id,
                instance_id=instance_id,
                from_states=(S.REQUESTED,),
                to_state=S.PROVISIONING,
            )
        return done() if moved else _superseded(instance)

    async def create(self, tenant_id: str, instance_id: str) -> Outcome:
        """Composes, asks the compute for the machine or adopts it, and records it.

        The machine's name and what it is composed from are committed before the compute is asked,
        so that whatever happens to the answer the machine can be found. The user-data, with its
        join token, lives in this step only: it is neither stored nor journalled.
        """
        async with self._database.transaction() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state is not S.PROVISIONING:
                return _superseded(instance)
            plan = await self._composer.plan(tx, instance=instance)
            token = hashed(join_token(self._vault, instance.id))
            # Not again for a machine that joined: that would forget its keys.
            if instance.join_used_at is None and instance.join_token_hash != token:
                await tx.instances.issue_join_token(
                    tenant_id=tenant_id,
                    instance_id=instance_id,
                    token_hash=token,
                    expires_at=tx.now + timedelta(seconds=self._timings.join),
                )
        composed = await self._composer.compose(plan)
        async with self._database.transaction() as tx:
            await tx.instances.record_composed(
                tenant_id=tenant_id,
                instance_id=instance_id,
                user_data_size=composed.size,
                left_to_daemon=composed.left_to_daemon,
            )
        await self._ask(instance, composed)
        return done()

    async def start_again(self, tenant_id: str, instance_id: str) -> Outcome:
        """Asks the compute for a machine that should be on and is off: it adopts and starts it.

        The machine has long taken what it was composed from; asking takes user-data all the same.
        """
        async with self._database.reading() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state not in SHOULD_BE_ON:
                return _superseded(instance)
            plan = await self._composer.plan(tx, instance=instance)
        await self._ask(instance, await self._composer.compose(plan))
        return done()

    async def _ask(self, instance: Instance, composed: Composed) -> None:
        machine = await self._compute(instance).create(
            MachineRequest(
                name=instance.machine_name,
                user_data=composed.user_data,
                labels={"aura-instance": instance.id, "aura-agent": instance.agent_id},
            )
        )
        async with self._database.transaction() as tx:
            await tx.instances.record_external(
                tenant_id=instance.tenant_id,
                instance_id=instance.id,
                external_id=machine.external_id,
                push_url=machine.push_url,
            )

    async def enrol(self, tenant_id: str, instance_id: str) -> Outcome:
        """``provisioning`` to ``enrolling``."""
        async with self._database.transaction() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state is S.ENROLLING:
                return done()
            moved = await tx.instances.transition(
                tenant_id=tenant_id,
                instance_id=instance_id,
                from_states=(S.PROVISIONING,),
                to_state=S.ENROLLING,
            )
        return done() if moved else _superseded(instance)

    async def deliver(self, tenant_id: str, instance_id: str) -> Outcome:
        """Wants the permissions and credentials on the machine that has joined, and learns where
        its daemon listens if the compute did not know before."""
        async with self._database.transaction() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state is not S.ENROLLING:
                return _superseded(instance)
            await desire_all(tx, instance=instance, providers=self._providers)
        if instance.push_url is None:
            machine = await self._compute(instance).find(instance.machine_name)
            if machine is not None and machine.push_url is not None:
                async with self._database.transaction() as tx:
                    await tx.instances.record_reachable(
                        tenant_id=tenant_id,
                        instance_id=instance_id,
                        push_url=machine.push_url,
                    )
        self._deliverer.wake()
        return done()

    async def look(self, tenant_id: str, instance_id: str) -> Outcome:
        """How far the machine is, ``at`` what time (seconds since 1970), and what is ``left`` of
        the join token's life (seconds)."""
        async with self._database.reading() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state is not S.ENROLLING:
                return _superseded(instance)
            if instance.quarantined_reason is not None:
                return failed(instance.quarantined_reason)
            rows = await tx.deliveries.for_instance(tenant_id=tenant_id, instance_id=instance_id)
            expires = instance.join_expires_at
            left = 0.0 if expires is None else (expires - tx.now).total_seconds()
        return done(
            joined=instance.join_used_at is not None,
            settled=settled(instance, rows),
            left=left,
            at=tx.now.timestamp(),
        )

    async def finish(self, tenant_id: str, instance_id: str) -> Outcome:
        """``enrolling`` to ``running``."""
        async with self._database.transaction() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            if instance.state in (S.RUNNING, S.DEGRADED):
                return done()
            moved = await tx.instances.transition(
                tenant_id=tenant_id,
                instance_id=instance_id,
                from_states=(S.ENROLLING,),
                to_state=S.RUNNING,
            )
        return done() if moved else _superseded(instance)

    async def fail(self, tenant_id: str, instance_id: str, reason: str) -> Outcome:
        """To ``failed``, unless the owner decided to destroy it meanwhile."""
        async with self._database.transaction() as tx:
            await tx.instances.transition(
                tenant_id=tenant_id,
                instance_id=instance_id,
                from_states=(S.REQUESTED, S.PROVISIONING, S.ENROLLING),
                to_state=S.FAILED,
                reason=reason,
            )
        return done()

    async def remove(self, tenant_id: str, instance_id: str) -> Outcome:
        """Destroys the machine at its compute; succeeds when there is none."""
        async with self._database.reading() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
        await self._compute(instance).destroy(instance.machine_name)
        async with self._database.transaction() as tx:
            await tx.instances.record_destroyed(tenant_id=tenant_id, instance_id=instance_id)
        return done()

    async def bury(self, tenant_id: str, instance_id: str, actor: str) -> Outcome:
        """``destroying`` to ``destroyed``; the agent goes with its last machine."""
        async with self._database.transaction() as tx:
            instance = await tx.instances.get(tenant_id=tenant_id, instance_id=instance_id)
            await tx.instances.transition(
                tenant_id=tenant_id,
                instance_id=instance_id,
                from_states=(S.DESTROYING,),
                to_state=S.DESTROYED,
            )
            others = await tx.instances.for_agent(tenant_id=tenant_id, agent_id=instance.agent_id)
            if all(other.state is S.DESTROYED for other in others):
                await tx.agents.delete(tenant_id=tenant_id, agent_id=instance.agent_id, actor=actor)
        return done()

    def _compute(self, instance: Instance) -> Compute:
        compute = self._computes.get(instance.compute)
        if compute is None:
            raise ConfigurationError(
                f"There is no compute {instance.compute!r} here any more.",
                hint="Install the plugin that brings it: its machines go on without it.",
            )
        return compute


def _superseded(instance: Instance) -> Outcome:
    """Somebody else moved the instance on: the workflow ends without a word of its own."""
    return {"ok": False, "retry": False, "reason": "", "superseded": instance.state.value}
