"""An agent gets its machine, whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aura_control.settings import Settings
from aura_control.workflows.machines import Timings
from aura_core.errors import ComputeError
from aura_core.permissions import AgentPermissions
from aura_core.registry import Registry
from aura_core.wire import VmKeys
from tests.control.machines.world import QUICK, World, open_world


async def states(world: World, agent: dict[str, Any]) -> list[str]:
    seen = [data["state"] for _, data in await world.events(agent["id"]) if "state" in data]
    return [state for state, before in zip(seen, [None, *seen], strict=False) if state != before]


async def test_an_agent_comes_to_run(world: World) -> None:
    agent, vm = await world.running(permissions={"scopes": ["notes:read"]})
    assert world.compute.asked == [agent["instance"]["machine_name"]]
    assert AgentPermissions.model_validate(vm.held["policy"].content).scopes == {"notes:read"}
    assert await states(world, agent) == ["requested", "provisioning", "enrolling", "running"]
    instance = await world.instance(agent)
    assert instance.user_data_size is not None
    assert 0 < instance.user_data_size <= 32768
    assert instance.external_id == "x-1"


async def test_what_is_asked_for_is_recorded_before(world: World) -> None:
    agent, _ = await world.running()
    kinds = [kind for kind, _ in await world.events(agent["id"])]
    assert kinds.index("instance.composed") < kinds.index("instance.machine_created")
    recorded = await world.audited("instance.join_token_issued")
    assert len(recorded) == 1


async def test_a_lost_answer_leaves_one_machine(world: World) -> None:
    world.compute.lose_answers = 1
    agent, _ = await world.running()
    name = agent["instance"]["machine_name"]
    assert world.compute.asked == [name, name]
    assert [*world.compute.table] == [name]
    assert len(world.compute.user_data[name]) == 1  # composed again, to the same bytes
    assert world.compute.destroyed == []


@pytest.mark.parametrize(("retryable", "attempts"), [(False, 1), (True, 3)])
async def test_a_compute_that_refuses_fails_the_instance(
    world: World, retryable: bool, attempts: int
) -> None:
    world.compute.refuse = ComputeError("No machines left.", retryable=retryable)
    agent = await world.deploy()
    failed = await world.until_state(agent["id"], "failed")
    assert failed["state_reason"] == "No machines left."
    assert len(world.compute.asked) == attempts
    await world.until_kind(agent["id"], "instance.machine_destroyed")
    assert world.compute.destroyed == [agent["instance"]["machine_name"]]


async def test_a_machine_whose_creation_was_lost_for_good_is_destroyed(world: World) -> None:
    world.boots = False
    world.compute.lose_answers = 99
    agent = await world.deploy()
    await world.until_state(agent["id"], "failed")
    await world.until_kind(agent["id"], "instance.machine_destroyed")
    assert world.compute.table == {}


async def test_a_machine_that_never_enrols_is_given_up(
    settings: Settings, registry: Registry
) -> None:
    waits = replace(QUICK, timings=Timings(join=0.2, retries=(0.01,)))
    async with open_world(settings, registry, waits=waits, boots=False) as world:
        agent = await world.deploy()
        failed = await world.until_state(agent["id"], "failed")
        assert failed["state_reason"] == "The machine did not enrol in time."
        await world.until_kind(agent["id"], "instance.machine_destroyed")
        assert world.compute.table == {}
        late = await world.vms[agent["instance"]["id"]].join()
        assert late.status_code == 403


async def test_a_machine_that_never_works_is_given_up(
    settings: Settings, registry: Registry
) -> None:
    waits = replace(QUICK, timings=Timings(join=60, healthy=0.3, retries=(0.01,)))
    async with open_world(settings, registry, waits=waits, boots=False) as world:
        agent = await world.deploy()
        await world.until_state(agent["id"], "enrolling")
        vm = world.vms[agent["instance"]["id"]]
        vm.health = {"runtime": {"ready": False}}
        await vm.boot()
        failed = await world.until_state(agent["id"], "failed")
        assert "did not report in time that its runtime works" in failed["state_reason"]
        await world.until_kind(agent["id"], "instance.machine_destroyed")
        assert world.compute.table == {}
        assert (await vm.heartbeat()).status_code == 403


async def test_it_runs_once_it_is_ready_and_holds_its_permissions(world: World) -> None:
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    vm = world.vms[agent["instance"]["id"]]
    vm.faults = ["unreachable"] * 1000
    await vm.join()
    assert (await vm.heartbeat()).json()["lacking"] == ["policy"]
    assert (await world.agent(agent["id"]))["state"] == "enrolling"
    await vm.pull()
    await vm.heartbeat()
    await world.until_state(agent["id"], "running")


async def test_a_second_machine_with_the_token_fails_it(world: World) -> None:
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    vm = world.vms[agent["instance"]["id"]]
    assert (await vm.join()).status_code == 200
    assert (await vm.join(VmKeys.generate())).status_code == 403
    failed = await world.until_state(agent["id"], "failed")
    assert "other keys" in failed["state_reason"]
    await world.until_kind(agent["id"], "instance.machine_destroyed")
    assert world.compute.table == {}


async def test_no_secret_is_in_the_journal_or_the_database(world: World) -> None:
    _, vm = await world.running()
    assert len(vm.join_token) >= 43
    for path in world.settings.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert vm.join_token.encode() not in content, path
            assert vm.gateway_token.encode() not in content, path
