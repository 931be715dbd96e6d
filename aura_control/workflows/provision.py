"""Provisioning: from the intent to a machine that works, in steps that survive a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from aura_control.db.models import InstanceState as S
from aura_control.services.enrolment import PROGRESS, PROVISION
from aura_control.workflows.engine import Engine
from aura_control.workflows.machines import MachineSteps, Timings
from aura_control.workflows.outcome import Outcome, failed, run_step

__all__ = ["Provision"]

Step = Callable[..., Awaitable[Outcome]]

_LATE = {
    "joined": "The machine did not enrol in time.",
    "settled": "The machine enrolled, but did not report in time that its runtime works.",
}


class Provision:
    """The workflow ``provision``; its id is ``provision-<instance id>``."""

    def __init__(self, *, engine: Engine, steps: MachineSteps, timings: Timings) -> None:
        self._engine = engine
        self._steps = steps
        self._timings = timings
        engine.register(PROVISION, self.run)

    async def run(self, tenant_id: str, instance_id: str) -> str:
        """What it came to: ``running``, ``failed``, or the state that superseded it."""
        outcome = await self._attempt(tenant_id, instance_id)
        if outcome["ok"]:
            return "running"
        superseded = outcome.get("superseded")
        if superseded is None:
            # First the state, so that nobody takes the machine for usable; then the machine.
            await self._once("fail", self._steps.fail, tenant_id, instance_id, outcome["reason"])
        # Also when the owner destroyed the instance meanwhile: the step that makes the machine may
        # have ended after the destruction. Should the compute refuse for longer than this tries,
        # the sweep finds the machine by its name.
        if superseded in (None, S.DESTROYING.value, S.DESTROYED.value):
            await self._patiently("remove", self._steps.remove, tenant_id, instance_id)
        return "failed" if superseded is None else str(superseded)

    async def _attempt(self, tenant_id: str, instance_id: str) -> Outcome:
        steps = self._steps
        outcome: Outcome = {}
        for stage in (
            partial(self._patiently, "begin", steps.begin),
            partial(self._patiently, "create", steps.create),
            partial(self._patiently, "enrol", steps.enrol),
            partial(self._until, "joined"),
            partial(self._patiently, "deliver", steps.deliver),
            partial(self._until, "settled"),
            partial(self._patiently, "finish", steps.finish),
        ):
            outcome = await stage(tenant_id, instance_id)
            if not outcome["ok"]:
                break
        return outcome

    async def _until(self, what: str, tenant_id: str, instance_id: str) -> Outcome:
        """Waits for the machine, which is told by messages: of its joining, of each heartbeat and
        of the owner's wish to destroy it. A message only says that it is worth looking.

        All that is decided by comes out of recorded steps, the time too: after a crash the same
        decisions are made again.
        """
        deadline: float | None = None
        while True:
            outcome = await self._patiently("look", self._steps.look, tenant_id, instance_id)
            if not outcome["ok"] or outcome[what]:
                return outcome
            if deadline is None:
                patience = outcome["left"] if what == "joined" else self._timings.healthy
                deadline = outcome["at"] + patience
            left = deadline - outcome["at"]
            if left <= 0:
                return failed(_LATE[what])
            await self._engine.recv(PROGRESS, timeout=left)

    async def _patiently(self, name: str, step: Step, *arguments: str) -> Outcome:
        """Repeats a step that may succeed later, with durable waits in between."""
        outcome = await self._once(name, step, *arguments)
        for wait in self._timings.retries:
            if outcome["ok"] or not outcome["retry"]:
                break
            await self._engine.sleep(wait)
            outcome = await self._once(name, step, *arguments)
        return outcome

    async def _once(self, name: str, step: Step, *arguments: str) -> Outcome:
        return await run_step(self._engine, name, partial(step, *arguments))
