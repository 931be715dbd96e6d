"""Everything that runs beside the requests to make machines and keep them supplied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aura_control.db.engine import Database
from aura_control.ports import Clock, MachineClient
from aura_control.services.composing import Composer
from aura_control.services.deliverer import OutboxDeliverer, Pace
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.sealing import Sealer
from aura_control.services.skills import Skills
from aura_control.settings import Settings
from aura_control.workflows.destroy import Destroy
from aura_control.workflows.engine import Engine
from aura_control.workflows.machines import MachineSteps, Timings
from aura_control.workflows.provision import Provision
from aura_control.workflows.sweeps import Sweeper
from aura_core.compute import Compute
from aura_core.registry import Registry

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["Operation", "Waits", "compose_operation"]


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long what is done for machines may take and how often it is looked at, in seconds."""

    timings: Timings | None = None
    """For provisioning and destroying; without one, the settings say how long joining may take."""
    pace: Pace = field(default_factory=Pace)
    poll: float = 0.25
    """How often a waiting workflow looks for its messages."""
    drain: float = 20.0
    """How long steps under way may take at shutdown."""
    sweep: float | None = None
    """Between two sweeps; without one, the interval of heartbeats."""
    grace: float = 60.0
    """How long an instance may stand still before the sweep looks at its workflow."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The parts, for ``Services`` to name; :meth:`running` is their life."""

    engine: Engine
    deliverer: OutboxDeliverer
    sealer: Sealer
    skills: Skills
    steps: MachineSteps
    computes: Mapping[str, Compute]
    waits: Waits

    @asynccontextmanager
    async def running(self, services: Services) -> AsyncIterator[None]:
        """Resumes interrupted work, then delivers and sweeps until the block ends.

        At the end nothing new begins and what is under way is finished, or left to the next start.
        """
        sweeper = Sweeper(
            services=services,
            engine=self.engine,
            steps=self.steps,
            computes=self.computes,
            every=self.waits.sweep or services.settings.heartbeat_seconds,
            grace=self.waits.grace,
        )
        async with AsyncExitStack() as stack:
            for compute in self.computes.values():
                stack.push_async_callback(compute.aclose)
            await self.engine.launch()
            delivering = asyncio.create_task(self.deliverer.run())
            stack.push_async_callback(_joined, delivering)
            stack.push_async_callback(self.deliverer.close)
            stack.push_async_callback(self.engine.close)
            sweeping = asyncio.create_task(sweeper.run())
            stack.push_async_callback(_joined, sweeping)
            stack.callback(sweeper.close)
            yield


def compose_operation(
    *,
    settings: Settings,
    database: Database,
    vault: Vault,
    registry: Registry,
    providers: Providers,
    machines: MachineClient,
    clock: Clock,
    waits: Waits,
) -> Operation:
    """Puts the parts together; nothing runs yet."""
    timings = waits.timings or Timings(join=settings.join_seconds)
    skills = Skills(registry)
    sealer = Sealer(vault=vault, providers=providers, skills=skills)
    engine = Engine(
        database_url=settings.durable,
        executor_id=settings.executor_id,
        poll_seconds=waits.poll,
        drain_seconds=waits.drain,
    )
    deliverer = OutboxDeliverer(
        database=database,
        sealer=sealer,
        vault=vault,
        machines=machines,
        workflows=engine,
        clock=clock,
        pace=waits.pace,
    )
    computes = registry.computes()
    steps = MachineSteps(
        database=database,
        vault=vault,
        composer=Composer(settings=settings, vault=vault, registry=registry, skills=skills),
        providers=providers,
        computes=computes,
        deliverer=deliverer,
        timings=timings,
    )
    Provision(engine=engine, steps=steps, timings=timings)
    Destroy(engine=engine, steps=steps, timings=timings)
    return Operation(
        engine=engine,
        deliverer=deliverer,
        sealer=sealer,
        skills=skills,
        steps=steps,
        computes=computes,
        waits=waits,
    )


async def _joined(task: asyncio.Task[None]) -> None:
    await task
