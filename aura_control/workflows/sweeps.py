"""Sweeps: what makes good, from time to time and at each start, what a crash left undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aura_control.db.models import Instance
from aura_control.db.models import InstanceState as S
from aura_control.logs import get_logger
from aura_control.services.enrolment import DESTROY, PROVISION, destroy_id, provision_id
from aura_control.services.heartbeats import mark_silent
from aura_control.services.watching import prune
from aura_control.workflows.engine import Engine, WorkflowState
from aura_control.workflows.machines import SHOULD_BE_ON, MachineSteps
from aura_core.compute import Compute, Machine
from aura_core.errors import AuraError

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["Sweeper"]

_log = get_logger(__name__)

_UNDER_WAY = (S.REQUESTED, S.PROVISIONING, S.ENROLLING)
_PREFIX = "aura-"


class Sweeper:
    """A background task: :meth:`run` until :meth:`close`."""

    def __init__(
        self,
        *,
        services: Services,
        engine: Engine,
        steps: MachineSteps,
        computes: Mapping[str, Compute],
        every: float,
        grace: float,
        compare_every: float = 60.0,
    ) -> None:
        self._services = services
        self._engine = engine
        self._steps = steps
        self._computes = computes
        self._every = every
        self._grace = grace
        self._compare_every = compare_every
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Sweeps once at the start, and then at intervals."""
        loop = asyncio.get_running_loop()
        comparison_due = loop.time()
        grace = 0.0
        while not self._stop.is_set():
            await self._contained("instances", self.restart_lost(grace=grace))
            await self._contained("heartbeats", mark_silent(self._services))
            if loop.time() >= comparison_due:
                await self._contained("machines", self.compare_machines())
                await self._contained("events", prune(self._services))
                comparison_due = loop.time() + self._compare_every
            grace = self._grace
            try:
                async with asyncio.timeout(self._every):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Ends :meth:`run` after the sweep at hand."""
        self._stop.set()

    async def restart_lost(self, *, grace: float) -> int:
        """Instances on their way whose workflow was lost are given one; how many.

        A row is committed before its workflow is started, so a crash in between leaves the row.
        ``grace`` (seconds) leaves alone what was changed just now by another process.
        """
        async with self._services.database.reading() as tx:
            before = tx.now - timedelta(seconds=grace) + timedelta(milliseconds=1)
            due = await tx.instances.due(
                states=(*_UNDER_WAY, S.DESTROYING), before=before, limit=1000
            )
        restarted = 0
        for instance in due:
            restarted += await self._restart(instance)
        return restarted

    async def _restart(self, instance: Instance) -> bool:
        who = (instance.tenant_id, instance.id)
        if instance.state is S.DESTROYING:
            workflow_id = destroy_id(instance.id)
            state = await self._engine.status(workflow_id)
            if state is WorkflowState.PENDING:
                return False
            if state is not None:
                # An id runs once. One that was cancelled gets a successor.
                workflow_id += f"-{int(instance.updated_at.timestamp() * 1000)}"
            await self._engine.start(DESTROY, workflow_id, *who, "system")
            return True
        state = await self._engine.status(provision_id(instance.id))
        if state is WorkflowState.PENDING:
            return False
        if state is None:
            await self._engine.start(PROVISION, provision_id(instance.id), *who)
            return True
        # It ended without saying so, which no step does: somebody cancelled it by hand. The next
        # comparison of machines takes its machine.
        await self._steps.fail(*who, "Its provisioning was cancelled.")
        return True

    async def compare_machines(self) -> int:
        """Machines whose instance failed or is gone are destroyed, and those that are off although
        their instance should run are started again; how many of both. Where the daemons of the
        others listen is learned anew: it changes when a machine restarts.

        After the host of local machines was restarted, this is what brings them back. Computes
        answer with machines of ours only. One whose instance is unknown is left and logged: it may
        belong to a database that this one is an old copy of.
        """
        changed = 0
        for name, compute in self._computes.items():
            try:
                machines = await compute.machines()
            except Exception:  # noqa: BLE001 - a compute that is away keeps the others from nothing
                _log.exception("compute_broke", compute=name)
                continue
            for machine in machines:
                instance = await self._instance(machine.name)
                if instance is None:
                    _log.warning("machine_unknown", machine=machine.name)
                else:
                    changed += await self._compare(machine, instance)
        return changed

    async def _compare(self, machine: Machine, instance: Instance) -> bool:
        who = (instance.tenant_id, instance.id)
        try:
            if instance.state in (S.FAILED, S.DESTROYED):
                return bool((await self._steps.remove(*who))["ok"])
            if machine.state == "off" and instance.state in SHOULD_BE_ON:
                _log.warning("machine_off", machine=machine.name)
                return bool((await self._steps.start_again(*who))["ok"])
        except AuraError as error:
            # One machine that cannot be mended must not keep the others from it.
            _log.warning("machine_unchanged", machine=machine.name, reason=str(error))
            return False
        if machine.push_url is not None and machine.push_url != instance.push_url:
            await self._moved(instance, machine.push_url)
        return False

    async def _moved(self, instance: Instance, push_url: str) -> None:
        async with self._services.database.transaction() as tx:
            await tx.instances.record_reachable(
                tenant_id=instance.tenant_id, instance_id=instance.id, push_url=push_url
            )
        self._services.deliverer.wake()

    async def _instance(self, machine_name: str) -> Instance | None:
        async with self._services.database.reading() as tx:
            return await tx.instances.by_id_for_vm(machine_name.removeprefix(_PREFIX))

    async def _contained(self, what: str, sweep: Awaitable[Any]) -> None:
        try:
            await sweep
        except Exception:  # noqa: BLE001 - the next sweep should come all the same
            _log.exception("sweep_broke", sweep=what)
