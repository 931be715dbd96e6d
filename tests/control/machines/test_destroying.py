"""A machine is given back, whatever happens on the way."""

from __future__ import annotations

import asyncio

from aura_core.compute import Machine, MachineRequest
from tests.control.machines.world import World


async def gone(world: World, agent_id: str) -> None:
    async def look() -> bool:
        return (await world.http.get(f"/api/agents/{agent_id}")).status_code == 404

    await world.until(agent_id, look)


async def test_an_agent_goes_with_its_machine(world: World) -> None:
    agent, vm = await world.running()
    answer = await world.http.delete(f"/api/agents/{agent['id']}")
    assert answer.status_code == 202
    assert answer.json()["state"] == "destroying"
    assert answer.json()["instance"]["id"] == agent["instance"]["id"]
    await gone(world, agent["id"])
    assert world.compute.table == {}
    instance = await world.instance(agent)
    assert instance.state == "destroyed"
    assert (await vm.heartbeat()).status_code == 403
    assert (await vm.join()).status_code == 403
    assert len(await world.audited("agent.deleted")) == 1
    assert (await world.http.get("/api/agents")).json() == {"agents": []}


async def test_asking_twice_destroys_once(world: World) -> None:
    agent, _ = await world.running()
    world.compute.refuse_destroying = 1
    first, second = await asyncio.gather(
        *(world.http.delete(f"/api/agents/{agent['id']}") for _ in range(2))
    )
    assert (first.status_code, second.status_code) == (202, 202)
    await gone(world, agent["id"])
    assert len(await world.audited("instance.destroying")) == 1
    assert len(await world.audited("instance.destroyed")) == 1


async def test_a_compute_that_does_not_answer_is_asked_until_it_does(world: World) -> None:
    agent, _ = await world.running()
    world.compute.refuse_destroying = 5
    await world.http.delete(f"/api/agents/{agent['id']}")
    await gone(world, agent["id"])
    assert world.compute.table == {}


async def test_a_machine_that_is_waited_for_can_be_destroyed(world: World) -> None:
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    await world.http.delete(f"/api/agents/{agent['id']}")
    await gone(world, agent["id"])
    assert world.compute.table == {}
    assert await world.engine.wait(f"provision-{agent['instance']['id']}") in (
        "destroying",
        "destroyed",
    )


async def test_a_machine_that_is_being_made_is_not_left_behind(world: World) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def creating(_: MachineRequest) -> None:
        asked.set()
        await go.wait()

    world.compute.creating = creating
    world.boots = False
    agent = await world.deploy()
    await asked.wait()
    await world.http.delete(f"/api/agents/{agent['id']}")
    await gone(world, agent["id"])
    go.set()  # the compute answers only after everything else was cleaned up
    await world.engine.wait(f"provision-{agent['instance']['id']}")
    assert world.compute.table == {}
    assert (await world.instance(agent)).state == "destroyed"


async def test_a_failed_agent_can_be_destroyed(world: World) -> None:
    from aura_core.errors import ComputeError

    world.compute.refuse = ComputeError("No.", retryable=False)
    agent = await world.deploy()
    await world.until_state(agent["id"], "failed")
    assert (await world.http.delete(f"/api/agents/{agent['id']}")).status_code == 202
    await gone(world, agent["id"])


async def test_nothing_is_delivered_any_more(world: World) -> None:
    agent, vm = await world.running()
    world.compute.refuse_destroying = 3
    await world.http.delete(f"/api/agents/{agent['id']}")
    received = len(vm.received)
    world.services.deliverer.wake()
    await gone(world, agent["id"])
    assert len(vm.received) == received


async def test_the_sweep_removes_what_belongs_to_nobody(world: World) -> None:
    agent, _ = await world.running()
    await world.http.delete(f"/api/agents/{agent['id']}")
    await gone(world, agent["id"])
    name = agent["instance"]["machine_name"]
    table = world.compute.table
    table[name] = Machine(name=name, external_id="again", state="running")
    table["aura-unknown"] = Machine(name="aura-unknown", external_id="x", state="running")
    running, _ = await world.running()
    assert await world.sweeper.compare_machines() == 1
    # What this database has never heard of may be another's.
    assert {*table} == {"aura-unknown", running["instance"]["machine_name"]}
