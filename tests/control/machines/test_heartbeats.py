"""What machines report, and what becomes of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aura_control.services.heartbeats import Health, judge, mark_silent
from tests.control.machines.world import World


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ({"runtime": {"ready": True}}, None),
        ({"runtime": {"ready": True}, "credentials": {"notes": {"state": "usable"}}}, None),
        ({}, "The runtime is not ready."),
        ({"runtime": {"ready": False}}, "The runtime is not ready."),
        (
            {"runtime": {"ready": True}, "credentials": {"notes": {"state": "expired"}}},
            "The credential for notes is expired.",
        ),
        (
            {"runtime": {"ready": True}, "credentials": {"notes": {"state": "missing"}}},
            "The credential for notes is missing.",
        ),
    ],
)
def test_what_makes_a_machine_degraded(health: dict[str, Any], reason: str | None) -> None:
    assert judge(Health.model_validate(health)) == reason


async def test_a_machine_is_degraded_and_recovers(world: World) -> None:
    agent, vm = await world.running()
    vm.health = {"runtime": {"ready": False}}
    await vm.heartbeat()
    seen = await world.agent(agent["id"])
    assert (seen["state"], seen["state_reason"]) == ("degraded", "The runtime is not ready.")
    await vm.heartbeat()
    vm.health = {"runtime": {"ready": True}, "credentials": {"notes": {"state": "expired"}}}
    await vm.heartbeat()
    seen = await world.agent(agent["id"])
    assert seen["state_reason"] == "The credential for notes is expired."
    vm.health = {"runtime": {"ready": True}}
    await vm.heartbeat()
    seen = await world.agent(agent["id"])
    assert (seen["state"], seen["state_reason"]) == ("running", None)
    states = [d["state"] for k, d in await world.events(agent["id"]) if k == "instance.degraded"]
    assert len(states) == 2  # once for each reason, not for each heartbeat


async def test_silence_is_noticed_and_so_is_its_end(world: World) -> None:
    agent, vm = await world.running()
    assert await mark_silent(world.services) == 0
    await world.age_heartbeats(timedelta(seconds=16))
    assert await mark_silent(world.services) == 1
    seen = await world.agent(agent["id"])
    assert seen["state"] == "degraded"
    assert seen["state_reason"] == "No heartbeat for more than 15 seconds."
    assert await mark_silent(world.services) == 0
    await vm.heartbeat()
    assert (await world.agent(agent["id"]))["state"] == "running"


async def test_the_report_can_be_read(world: World) -> None:
    agent, vm = await world.running()
    vm.health = {
        "runtime": {"ready": True, "detail": {"routines": {}}},
        "load": [0.1, 0.2, 0.3],
        "skills": {},
    }
    answer = await vm.heartbeat()
    assert answer.json() == {"lacking": [], "heartbeat_seconds": 5}
    report = (await world.http.get(f"/api/agents/{agent['id']}/health")).json()
    assert report["health"] == vm.health
    assert report["state"] == "running"
    assert report["reported_at"] is not None


async def test_an_agent_without_a_report_has_none(world: World) -> None:
    world.boots = False
    agent = await world.deploy()
    report = (await world.http.get(f"/api/agents/{agent['id']}/health")).json()
    assert report["health"] is None
    assert report["reported_at"] is None
