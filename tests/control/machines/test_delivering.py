"""What a user wants on machines gets there, and what should go goes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import respx
from sqlalchemy import text

from aura_control.services.delivery import Skill, desire_policy
from aura_control.services.skills import Skills
from aura_core.permissions import AgentPermissions
from aura_core.skills import VmSystemdService
from tests.control.machines.vm import Vm
from tests.control.machines.world import World


@pytest.fixture
def provider() -> Any:
    with respx.mock(assert_all_called=False) as router:
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        yield router


async def change_policy(world: World, vm: Vm) -> None:
    """A new revision of the permissions, as any change of them makes one."""
    async with world.services.database.transaction() as tx:
        instance = await tx.instances.by_id_for_vm(vm.instance_id)
        assert instance is not None
        await desire_policy(tx, instance=instance)
    world.services.deliverer.wake()


async def test_a_connection_reaches_the_machine_and_leaves_it(
    world: World, provider: respx.Router
) -> None:
    agent, vm = await world.running()
    connection = await world.connect(key="key-0123456789")
    await world.settled(agent["id"])
    content = vm.held[connection["id"]].content
    assert content is not None
    assert content["fields"] == {"api_key": "key-0123456789"}
    assert content["binding"]["hosts"] == ["api.notes.example"]
    (told,) = (await world.http.get("/api/integrations")).json()["integrations"][0]["machines"]
    assert (told["instance_id"], told["agent_id"]) == (vm.instance_id, agent["id"])
    assert told["acked_revision"] == vm.held[connection["id"]].revision
    assert (told["state"], told["last_error"]) == ("held", None)
    assert told["acked_at"]
    assert (await world.http.delete("/api/integrations/notes")).status_code == 200
    await world.settled(agent["id"])
    held = vm.held[connection["id"]]
    assert (held.op, held.content) == ("delete", None)
    rows = (await world.http.get("/api/integrations")).json()["integrations"]
    machines = rows[0]["receipt"]["machines"]
    assert [(m["instance_id"], m["state"]) for m in machines] == [(vm.instance_id, "wiped")]


async def test_a_connection_made_before_comes_with_the_machine(
    world: World, provider: respx.Router
) -> None:
    connection = await world.connect()
    agent, vm = await world.running()
    await world.settled(agent["id"])
    assert vm.held[connection["id"]].op == "put"


async def test_a_skill_connected_later_is_sent(world: World, provider: respx.Router) -> None:
    agent, vm = await world.running()
    await world.connect()

    async def held() -> bool:
        return "skill:notes-skill" in vm.held

    await world.until(agent["id"], held)
    content = vm.held["skill:notes-skill"].content
    assert content is not None
    assert (content["kind"], content["dir"]) == ("skill", "notes-skill")
    await world.http.delete("/api/integrations/notes")
    await world.settled(agent["id"])
    await vm.heartbeat()
    await world.settled(agent["id"])
    assert vm.held["skill:notes-skill"].op == "delete"


async def test_a_skill_that_the_machine_has_is_not_sent(
    world: World, provider: respx.Router
) -> None:
    await world.connect()
    skill = await world.services.skills.of("notes")
    assert skill is not None
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    vm = world.vms[agent["instance"]["id"]]
    vm.health["skills"] = {"notes-skill": skill.digest}
    await vm.boot()
    await world.until_state(agent["id"], "running")
    assert "skill:notes-skill" not in vm.held


async def test_an_agent_uses_only_what_it_is_given(world: World, provider: respx.Router) -> None:
    connection = await world.connect()
    agent, vm = await world.running(integrations=[])
    assert connection["id"] not in vm.held
    path = f"/api/agents/{agent['id']}"
    assert (await world.http.patch(path, json={"integrations": ["notes"]})).status_code == 200
    await world.settled(agent["id"])
    assert vm.held[connection["id"]].op == "put"
    assert (await world.http.patch(path, json={"integrations": []})).status_code == 200
    await world.settled(agent["id"])
    assert vm.held[connection["id"]].op == "delete"
    changed = await world.http.patch(path, json={"integrations": None})
    assert changed.json()["integrations"] is None
    await world.settled(agent["id"])
    assert vm.held[connection["id"]].op == "put"


async def test_new_permissions_reach_the_machine(world: World) -> None:
    agent, vm = await world.running()
    assert AgentPermissions.model_validate(vm.held["policy"].content).scopes == set()
    before = vm.held["policy"].revision
    await world.http.patch(
        f"/api/agents/{agent['id']}", json={"permissions": {"scopes": ["notes:read"]}}
    )
    await world.settled(agent["id"])
    assert AgentPermissions.model_validate(vm.held["policy"].content).scopes == {"notes:read"}
    assert vm.held["policy"].revision > before


@pytest.mark.parametrize("fault", ["unreachable", "refuse", "lose", "impostor"])
async def test_what_is_not_acknowledged_is_sent_again_as_it_was(world: World, fault: str) -> None:
    agent, vm = await world.running()
    vm.received.clear()
    vm.faults = [fault, fault]
    await change_policy(world, vm)
    await world.settled(agent["id"])
    assert len(set(vm.received)) == 1
    rows = (await world.agent(agent["id"]))["deliveries"]
    assert [row["attempts"] for row in rows] == [2]


async def test_an_impostor_is_not_believed(world: World) -> None:
    agent, vm = await world.running()
    vm.faults = ["impostor"] * 3
    await change_policy(world, vm)
    await world.settled(agent["id"])
    assert len(await world.audited("delivery.acknowledged")) == 2  # the first policy and this one


async def test_a_machine_that_is_ahead_is_overtaken(world: World) -> None:
    agent, vm = await world.running()
    ahead = vm.held["policy"].revision + 10**9
    vm.held["policy"].revision = ahead
    await change_policy(world, vm)
    await world.settled(agent["id"])
    assert vm.held["policy"].revision > ahead


async def test_another_message_of_the_same_revision_is_an_alarm(world: World) -> None:
    agent, vm = await world.running()
    await change_policy(world, vm)
    await world.settled(agent["id"])
    vm.held["policy"].digest = "0" * 64
    async with world.services.database.transaction() as tx:
        await tx.deliveries.renew(tenant_id=world.owner.tenant_id, instance_id=vm.instance_id)
        row = await tx.deliveries.get(
            tenant_id=world.owner.tenant_id, instance_id=vm.instance_id, subject="policy"
        )
    assert row is not None
    vm.held["policy"].revision = row.desired_revision
    world.services.deliverer.wake()
    await world.until_kind(agent["id"], "delivery.conflict")
    await world.settled(agent["id"])
    assert len(await world.audited("delivery.conflict")) == 1


async def test_a_dead_machine_delays_nobody(world: World) -> None:
    dead, dead_vm = await world.running()
    agent, vm = await world.running()
    hanging = asyncio.Event()
    answering = world.network.handle_async_request

    async def hang(request: httpx.Request) -> httpx.Response:
        if request.url.host.removesuffix(".test") == dead["instance"]["machine_name"]:
            hanging.set()
            await asyncio.Event().wait()
        return await answering(request)

    world.network.handle_async_request = hang  # type: ignore[method-assign]
    await change_policy(world, dead_vm)
    await hanging.wait()
    await change_policy(world, vm)
    await world.settled(agent["id"])
    # While one message is under way to a machine no other is.
    await change_policy(world, dead_vm)
    await change_policy(world, vm)
    await world.settled(agent["id"])
    assert len(dead_vm.received) == 0 or dead_vm.received == dead_vm.received[:1]


async def test_a_credential_that_does_not_open_holds_up_nothing_else(
    world: World, provider: respx.Router
) -> None:
    connection = await world.connect()
    async with world.services.database.transaction() as tx:
        await tx.session.execute(text("UPDATE integrations SET access_token = 'x'"))
    agent, vm = await world.running()
    assert vm.held["policy"].op == "put"
    assert connection["id"] not in vm.held
    rows = {row["subject"]: row for row in (await world.agent(agent["id"]))["deliveries"]}
    assert "was damaged or replaced" in rows[connection["id"]]["last_error"]


async def test_pulling_brings_what_was_lost_on_the_machine(world: World) -> None:
    _, vm = await world.running()
    held = vm.held.pop("policy")
    lacking = (await vm.heartbeat()).json()["lacking"]
    assert lacking == ["policy"]
    assert await vm.pull() == ["policy"]
    assert vm.held["policy"] == held
    assert (await vm.heartbeat()).json()["lacking"] == []


async def test_a_machine_that_holds_what_nobody_knows_is_told_to_forget_it(world: World) -> None:
    _, vm = await world.running()
    stranger = vm.held["policy"]
    vm.held["f" * 32] = type(stranger)(
        revision=stranger.revision + 5, digest="1" * 64, op="put", content={"kind": "credential"}
    )
    assert await vm.pull() == ["f" * 32]
    assert vm.held["f" * 32].op == "delete"


def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes' skill brings a service, as an adapter of theirs could."""
    build = Skills._build

    def with_service(self: Skills, provider: str) -> Skill | None:
        skill = build(self, provider)
        assert skill is not None
        unit = "[Unit]\nDescription=Notes\n\n[Service]\nExecStart=/opt/aura/bin/python -c pass\n"
        service = VmSystemdService(name="notes", unit_file_content=unit)
        return Skill.of(skill.manifest.model_copy(update={"services": (service,)}))

    monkeypatch.setattr(Skills, "_build", with_service)


async def test_a_service_that_came_after_the_machine_is_said_to_be_missing(
    world: World, provider: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(monkeypatch)
    agent, vm = await world.running()
    await world.connect()
    await vm.heartbeat()
    seen = await world.agent(agent["id"])
    assert seen["state"] == "degraded"
    assert "notes-skill came after the machine was made" in seen["state_reason"]
    assert "deploy the agent anew" in seen["state_reason"]
    await world.http.delete("/api/integrations/notes")
    await vm.heartbeat()
    assert (await world.agent(agent["id"]))["state"] == "running"


async def test_a_service_that_was_composed_is_there(
    world: World, provider: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(monkeypatch)
    await world.connect()
    agent, vm = await world.running()
    skill = await world.services.skills.of("notes")
    assert skill is not None
    vm.health["skills"] = {"notes-skill": skill.digest}
    async with world.services.database.transaction() as tx:
        # Left out of the user-data, so its folder is sent; the rest of it was composed.
        await tx.instances.record_composed(
            tenant_id=world.owner.tenant_id,
            instance_id=vm.instance_id,
            user_data_size=32_000,
            left_to_daemon=("notes-skill",),
        )
    await vm.heartbeat()
    assert (await world.agent(agent["id"]))["state"] == "running"
