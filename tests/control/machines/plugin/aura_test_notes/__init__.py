"""A plugin for tests: an integration with tools and a skill, a compute of fake machines, and a
runtime that needs nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from aura_core.compute import Compute, HostContext, Machine, MachineRequest
from aura_core.errors import ComputeError, InvalidInput
from aura_core.hookspecs import hookimpl
from aura_core.runtime import AgentSpec, Readiness, Runtime, RuntimePlan
from aura_core.skills import VmSystemdService

UNIT = "[Unit]\nDescription=Agent\n\n[Service]\nExecStart=/opt/aura/bin/python -c pass\n"


class ScriptedCompute:
    """Machines that exist in a table. ``boot`` is called with each new one."""

    id = "scripted"
    name = "Scripted"

    def __init__(self) -> None:
        self.table: dict[str, Machine] = {}
        self.asked: list[str] = []
        self.user_data: dict[str, set[str]] = {}
        self.destroyed: list[str] = []
        self.lose_answers = 0
        """Creations that happen although the answer is an error."""
        self.refuse: ComputeError | None = None
        self.refuse_destroying = 0
        self.boot: Callable[[MachineRequest], None] = lambda request: None
        self.creating: Callable[[MachineRequest], Awaitable[None]] | None = None

    async def create(self, request: MachineRequest) -> Machine:
        self.asked.append(request.name)
        self.user_data.setdefault(request.name, set()).add(request.user_data)
        if self.refuse is not None:
            raise self.refuse
        if self.creating is not None:
            await self.creating(request)
        if request.name not in self.table:
            self.table[request.name] = Machine(
                name=request.name,
                external_id=f"x-{len(self.asked)}",
                state="running",
                push_url=f"http://{request.name}.test",
            )
            self.boot(request)
        self.table[request.name] = replace(self.table[request.name], state="running")
        if self.lose_answers:
            self.lose_answers -= 1
            raise ComputeError("The answer was lost.", retryable=True)
        return self.table[request.name]

    async def find(self, name: str) -> Machine | None:
        return self.table.get(name)

    async def machines(self) -> list[Machine]:
        return [*self.table.values()]

    async def destroy(self, name: str) -> None:
        if self.refuse_destroying:
            self.refuse_destroying -= 1
            raise ComputeError("The compute does not answer.", retryable=True)
        self.table.pop(name, None)
        self.destroyed.append(name)

    async def aclose(self) -> None:
        return


class QuietRuntime:
    """Takes ``{"volume": int}``."""

    id = "quiet"
    name = "Quiet"

    def plan(self, spec: AgentSpec) -> RuntimePlan:
        config: Mapping[str, Any] = spec.config
        if not isinstance(config.get("volume", 0), int):
            raise InvalidInput("Too loud.", fields={"config.volume": "must be a number"})
        return RuntimePlan(
            runtime="quiet",
            services=(VmSystemdService(name="agent-quiet", unit_file_content=UNIT),),
            readiness=Readiness(socket="/run/agent/runtime.sock"),
        )


@hookimpl
def aura_computes(context: HostContext) -> Iterable[Compute]:
    return [ScriptedCompute()]


@hookimpl
def aura_runtimes(context: HostContext) -> Iterable[Runtime]:
    return [QuietRuntime()]
