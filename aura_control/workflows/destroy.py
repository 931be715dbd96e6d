"""Destroying: until nothing of the machine is left, however long its compute refuses."""

from __future__ import annotations

from functools import partial
from itertools import count

from aura_control.services.enrolment import DESTROY, PROGRESS, provision_id
from aura_control.workflows.engine import Engine
from aura_control.workflows.machines import MachineSteps, Timings
from aura_control.workflows.outcome import run_step

__all__ = ["Destroy"]


class Destroy:
    """The workflow ``destroy`` of an instance in the state ``destroying``."""

    def __init__(self, *, engine: Engine, steps: MachineSteps, timings: Timings) -> None:
        self._engine = engine
        self._steps = steps
        self._timings = timings
        engine.register(DESTROY, self.run)

    async def run(self, tenant_id: str, instance_id: str, actor: str) -> str:
        """``destroyed``. A compute that cannot be reached, or whose plugin is missing, is asked
        again for ever: giving up would leave a machine running that somebody pays for."""
        # A provisioning that waits for its machine looks, sees that it is over, and ends.
        await self._engine.send(provision_id(instance_id), PROGRESS, "stop")
        for attempt in count():
            remove = partial(self._steps.remove, tenant_id, instance_id)
            outcome = await run_step(self._engine, "remove", remove)
            if outcome["ok"]:
                break
            await self._engine.sleep(min(self._timings.longest_wait, 2.0 ** min(attempt, 10)))
        for attempt in count():
            bury = partial(self._steps.bury, tenant_id, instance_id, actor)
            outcome = await run_step(self._engine, "bury", bury)
            if outcome["ok"]:
                break
            await self._engine.sleep(min(self._timings.longest_wait, 2.0 ** min(attempt, 10)))
        return "destroyed"
