"""The control plane stops in the middle, and goes on."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from aura_control.db.models import InstanceState
from aura_control.settings import Settings
from aura_control.workflows.machines import MachineSteps
from aura_control.workflows.outcome import Outcome
from aura_core.compute import MachineRequest
from aura_core.errors import ComputeError
from aura_core.registry import Registry
from tests.control.machines.world import World, open_world


async def test_provisioning_goes_on_after_a_restart(settings: Settings, registry: Registry) -> None:
    async with open_world(settings, registry, boots=False) as before:
        agent = await before.deploy()
        await before.until_state(agent["id"], "enrolling")
        owners = (before.owner, before.stranger)
        vm = before.vms[agent["instance"]["id"]]
    async with open_world(settings, registry, owners=owners) as world:
        vm.http = world.anonymous
        world.network.vms[f"{agent['instance']['machine_name']}.test"] = vm
        await vm.boot()
        await world.until_state(agent["id"], "running")
        assert world.compute.asked == [agent["instance"]["machine_name"]]


async def test_a_creation_that_was_interrupted_is_adopted(
    settings: Settings, registry: Registry
) -> None:
    made = asyncio.Event()

    async def hang(_: MachineRequest) -> None:
        made.set()
        await asyncio.Event().wait()

    async with open_world(settings, registry, drain=0.05) as before:
        before.compute.creating = hang
        agent = await before.deploy()
        await made.wait()
        owners = (before.owner, before.stranger)
    async with open_world(settings, registry, owners=owners, boots=True) as world:
        world.compute.creating = None
        await world.until_state(agent["id"], "running")
        name = agent["instance"]["machine_name"]
        assert world.compute.asked == [name, name]
        assert len(world.compute.user_data[name]) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["begin", "create", "enrol", "look", "deliver", "finish"])
async def test_provisioning_goes_on_from_each_step(
    settings: Settings,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    moment: str,
) -> None:
    """A process that ends before a step did anything, or when it has done all and nobody noted it:
    between the two lies everything that a crash can leave."""
    entered, step = asyncio.Event(), getattr(MachineSteps, name)

    async def dying(self: MachineSteps, *arguments: str) -> Outcome:
        outcome: Outcome = await step(self, *arguments) if moment == "after" else {}
        entered.set()
        await asyncio.Event().wait()
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(MachineSteps, name, dying)
        async with open_world(settings, registry, drain=0.05) as before:
            agent = await before.deploy()
            await entered.wait()
            owners = (before.owner, before.stranger)
            await asyncio.gather(*before.tasks)
    async with open_world(settings, registry, owners=owners) as world:
        for vm in before.vms.values():
            vm.http = world.anonymous
            world.network.vms[f"{agent['instance']['machine_name']}.test"] = vm
            await vm.boot()
        await world.until_state(agent["id"], "running")
        assert [*world.compute.table] == [agent["instance"]["machine_name"]]
        assert len(world.compute.user_data[agent["instance"]["machine_name"]]) == 1
        kinds = [kind for kind, _ in await world.events(agent["id"])]
        for kind in ("instance.provisioning", "instance.enrolling", "instance.joined"):
            assert kinds.count(kind) == 1
        assert kinds.count("instance.running") == 1


async def request_only(world: World) -> tuple[str, str]:
    """An agent whose rows were committed by a process that died before it started anything."""
    async with world.services.database.transaction() as tx:
        agent = await tx.agents.create(
            tenant_id=world.owner.tenant_id,
            user_id=world.owner.user_id,
            name="Lost",
            compute="scripted",
            runtime="quiet",
            persona={},
            permissions={},
            config={},
            actor="system",
        )
        instance = await tx.instances.create(
            tenant_id=world.owner.tenant_id, agent_id=agent.id, compute="scripted", actor="system"
        )
    return agent.id, instance.id


async def test_a_lost_provisioning_is_found(world: World) -> None:
    agent_id, _ = await request_only(world)
    assert await world.sweeper.restart_lost(grace=60) == 0
    assert await world.sweeper.restart_lost(grace=0) == 1
    await world.until_state(agent_id, "running")
    assert await world.sweeper.restart_lost(grace=0) == 0


async def test_a_lost_destruction_is_found_at_the_start(
    settings: Settings, registry: Registry
) -> None:
    async with open_world(settings, registry) as before:
        agent, _ = await before.running()
        async with before.services.database.transaction() as tx:
            await tx.instances.transition(
                tenant_id=before.owner.tenant_id,
                instance_id=agent["instance"]["id"],
                from_states=(InstanceState.RUNNING,),
                to_state=InstanceState.DESTROYING,
            )
        owners = (before.owner, before.stranger)
    async with open_world(settings, registry, owners=owners) as world:

        async def look() -> bool:
            return (await world.http.get(f"/api/agents/{agent['id']}")).status_code == 404

        await world.until(agent["id"], look)
        assert world.compute.table == {}


async def test_a_cancelled_provisioning_is_said_to_have_failed(world: World) -> None:
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    await world.engine.cancel(f"provision-{agent['instance']['id']}")
    assert await world.sweeper.restart_lost(grace=0) == 1
    failed = await world.until_state(agent["id"], "failed")
    assert failed["state_reason"] == "Its provisioning was cancelled."
    assert await world.sweeper.compare_machines() == 1
    assert world.compute.table == {}


class _Away:
    async def machines(self) -> list[Any]:
        raise ComputeError("The cloud does not answer.", retryable=True)


async def test_a_compute_that_is_away_keeps_no_other_from_being_compared(world: World) -> None:
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    await world.engine.cancel(f"provision-{agent['instance']['id']}")
    assert await world.sweeper.restart_lost(grace=0) == 1
    await world.until_state(agent["id"], "failed")
    world.sweeper._computes = {"away": _Away(), **world.sweeper._computes}  # type: ignore[dict-item]
    assert await world.sweeper.compare_machines() == 1
    assert world.compute.table == {}


def switch_off(compute: Any, name: str) -> None:
    compute.table[name] = dataclasses.replace(compute.table[name], state="off", push_url=None)


async def test_a_machine_that_is_off_is_started_when_the_control_plane_starts(
    settings: Settings, registry: Registry
) -> None:
    """As after a restart of the host: nothing of a local machine runs any more."""
    async with open_world(settings, registry) as before:
        agent, vm = await before.running()
        owners = (before.owner, before.stranger)
        name = agent["instance"]["machine_name"]
        switch_off(before.compute, name)
    started = asyncio.Event()
    compute = registry.computes()["scripted"]

    async def creating(request: MachineRequest) -> None:
        started.set()

    compute.creating = creating  # type: ignore[attr-defined]
    async with open_world(settings, registry, owners=owners) as world:
        async with asyncio.timeout(60):
            await started.wait()
        vm.http = world.anonymous
        assert (await vm.heartbeat()).status_code == 200
        assert (await world.agent(agent["id"]))["state"] == "running"
    assert compute.table[name].state == "running"  # type: ignore[attr-defined]
    assert compute.asked == [name, name]  # type: ignore[attr-defined]


async def test_a_machine_that_cannot_be_started_keeps_no_other_from_it(world: World) -> None:
    names = []
    for _ in range(2):
        agent, _ = await world.running()
        names.append(agent["instance"]["machine_name"])
        switch_off(world.compute, names[-1])

    async def creating(request: MachineRequest) -> None:
        if request.name == min(names):
            raise ComputeError("Not now.", retryable=True)

    world.compute.creating = creating
    world.compute.table = dict(sorted(world.compute.table.items()))
    assert await world.sweeper.compare_machines() == 1
    states = {name: world.compute.table[name].state for name in names}
    assert states == {min(names): "off", max(names): "running"}


@pytest.mark.parametrize("state", [InstanceState.SUSPENDED, InstanceState.DESTROYING])
async def test_a_machine_that_is_off_on_purpose_stays_so(
    world: World, state: InstanceState
) -> None:
    agent, _ = await world.running()
    name = agent["instance"]["machine_name"]
    async with world.services.database.transaction() as tx:
        await tx.instances.transition(
            tenant_id=world.owner.tenant_id,
            instance_id=agent["instance"]["id"],
            from_states=(InstanceState.RUNNING,),
            to_state=state,
        )
    switch_off(world.compute, name)
    assert await world.sweeper.compare_machines() == 0
    assert world.compute.table[name].state == "off"
