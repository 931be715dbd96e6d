"""Who may join, and whose requests are believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aura_control.db.models import InstanceState
from aura_control.services.enrolment import hashed
from aura_core.wire import VmKeys, make_join, sign_request
from tests.control.machines.vm import Vm
from tests.control.machines.world import World


@pytest.fixture
async def waiting(world: World) -> tuple[dict[str, Any], Vm]:
    """An agent whose machine has booted and not joined."""
    world.boots = False
    agent = await world.deploy()
    await world.until_state(agent["id"], "enrolling")
    return agent, world.vms[agent["instance"]["id"]]


async def test_a_repeated_join_gets_the_same_answer(
    world: World, waiting: tuple[dict[str, Any], Vm]
) -> None:
    _, vm = waiting
    assert (await vm.join()).status_code == 200
    first = vm.gateway_token
    assert (await vm.join()).status_code == 200
    assert vm.gateway_token == first
    assert len(await world.audited("instance.joined")) == 1


async def test_other_keys_quarantine_the_instance(
    world: World, waiting: tuple[dict[str, Any], Vm]
) -> None:
    agent, vm = waiting
    await vm.join()
    thief = VmKeys.generate()
    assert (await vm.join(thief)).status_code == 403
    assert len(await world.audited("instance.quarantined")) == 1
    assert "instance.quarantined" in [kind for kind, _ in await world.events(agent["id"])]
    # Nobody can tell any more which of the two is the machine: both are shut out.
    for response in (await vm.join(), await vm.join(thief), await vm.heartbeat()):
        assert response.status_code == 403


@pytest.mark.parametrize("wrong", ["token", "instance", "expired", "destroyed", "foreign token"])
async def test_a_join_is_refused_in_the_same_words(
    world: World, waiting: tuple[dict[str, Any], Vm], wrong: str
) -> None:
    _, vm = waiting
    if wrong == "token":
        vm.join_token = "A" * 43
    elif wrong == "instance":
        vm.instance_id = "0" * 32
    elif wrong == "expired":
        await _expire(world, vm)
    elif wrong == "destroyed":
        await _destroy(world, vm)
    else:
        other = await world.deploy()
        await world.until_state(other["id"], "enrolling")
        vm.join_token = world.vms[other["instance"]["id"]].join_token
    response = await vm.join()
    assert response.status_code == 403
    assert response.json()["rule"] == "instance:join"
    assert await world.audited("instance.joined") == []
    assert await world.audited("instance.quarantined") == []


async def _expire(world: World, vm: Vm) -> None:
    async with world.services.database.transaction() as tx:
        await tx.instances.issue_join_token(
            tenant_id=world.owner.tenant_id,
            instance_id=vm.instance_id,
            token_hash=hashed(vm.join_token),
            expires_at=tx.now,
        )


async def _destroy(world: World, vm: Vm) -> None:
    async with world.services.database.transaction() as tx:
        await tx.instances.transition(
            tenant_id=world.owner.tenant_id,
            instance_id=vm.instance_id,
            from_states=(InstanceState.ENROLLING,),
            to_state=InstanceState.DESTROYING,
        )


async def test_what_is_no_join_request_is_refused(world: World) -> None:
    wrong = [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"instance_id": 1}', 400),
        (b"\xff\xfe", 400),
        (b"[" * 10_000, 400),
        (b" " * 70_000, 413),
    ]
    for body, status in wrong:
        answer = await world.anonymous.post("/vm/v1/join", content=body)
        assert answer.status_code == status, body[:20]
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_join_request_of_another_signer_is_refused(
    world: World, waiting: tuple[dict[str, Any], Vm]
) -> None:
    _, vm = waiting
    raw = make_join(
        vm.keys, instance_id=vm.instance_id, join_token=vm.join_token, issued_at=vm.clock()
    )
    document = json.loads(raw)
    document["sig"] = json.loads(
        make_join(
            VmKeys.generate(),
            instance_id=vm.instance_id,
            join_token=vm.join_token,
            issued_at=document["issued_at"],
        )
    )["sig"]
    response = await world.anonymous.post("/vm/v1/join", json=document)
    assert response.status_code == 401
    assert (await vm.join()).status_code == 200


async def test_a_recorded_heartbeat_is_refused(world: World) -> None:
    agent, vm = await world.running()
    body = json.dumps({"issued_at": vm.clock(), "revisions": vm.revisions, "health": {}}).encode()
    headers = sign(vm, "/vm/v1/heartbeat", body)
    assert (await vm.post("/vm/v1/heartbeat", body, headers=headers)).status_code == 200
    after = (await world.agent(agent["id"]))["instance"]["last_heartbeat_at"]
    assert (await vm.post("/vm/v1/heartbeat", body, headers=headers)).status_code == 409
    assert (await world.agent(agent["id"]))["instance"]["last_heartbeat_at"] == after


FORGERIES: dict[str, dict[str, Any]] = {
    "other keys": {"keys": VmKeys.generate()},
    "other path": {"path": "/vm/v1/x"},
    "other body": {"body": b"{}"},
    "other method": {"method": "PUT"},
    "unknown instance": {"instance_id": "0" * 32},
    "long ago": {"issued_at": 1},
}


def sign(vm: Vm, path: str, body: bytes, changes: dict[str, Any] | None = None) -> dict[str, str]:
    """The headers of the machine's own request, but for the changes."""
    facts: dict[str, Any] = {
        "keys": vm.keys,
        "method": "POST",
        "path": path,
        "instance_id": vm.instance_id,
        "issued_at": vm.clock(),
        "body": body,
        **(changes or {}),
    }
    return sign_request(facts.pop("keys"), **facts)


@pytest.mark.parametrize("path", ["/vm/v1/heartbeat", "/vm/v1/pull", "/vm/v1/ack"])
async def test_only_the_machine_itself_is_believed(world: World, path: str) -> None:
    _, vm = await world.running()
    body = b'{"issued_at":1,"revisions":{},"health":{}}'
    answers = {"unsigned": await world.anonymous.post(path, content=body)}
    for name, changes in FORGERIES.items():
        headers = sign(vm, path, body, changes)
        answers[name] = await world.anonymous.post(path, content=body, headers=headers)
    problems = {name: answer.json()["type"] for name, answer in answers.items()}
    assert problems == dict.fromkeys(answers, "urn:aura:problem:signature-invalid")
    assert {answer.status_code for answer in answers.values()} == {401}


HUGE = 2**60


WRONG: list[tuple[str, Any, int]] = [
    ("/vm/v1/heartbeat", b"{", 400),
    ("/vm/v1/heartbeat", b"[" * 5000, 400),
    ("/vm/v1/heartbeat", b'{"a":1,"a":2}', 400),
    ("/vm/v1/heartbeat", {}, 422),
    ("/vm/v1/heartbeat", {"issued_at": "1", "revisions": {}, "health": {}}, 422),
    ("/vm/v1/heartbeat", {"issued_at": HUGE, "revisions": {}, "health": {}}, 422),
    ("/vm/v1/heartbeat", {"issued_at": 1, "revisions": {"../x": 1}, "health": {}}, 422),
    ("/vm/v1/heartbeat", {"issued_at": 1, "revisions": {"a": -1}, "health": {}}, 422),
    ("/vm/v1/heartbeat", {"issued_at": 1, "revisions": {"a": True}, "health": {}}, 422),
    ("/vm/v1/heartbeat", {"issued_at": 1, "revisions": {}, "health": [1]}, 422),
    ("/vm/v1/heartbeat", {"issued_at": 1, "revisions": {}, "health": {"x": "\x00"}}, 422),
    ("/vm/v1/heartbeat", b'{"issued_at":1,"revisions":{},"health":{"x":"\\ud800"}}', 422),
    (
        "/vm/v1/heartbeat",
        {"issued_at": HUGE >> 8, "revisions": {}, "health": {"runtime": 1}},
        422,
    ),
    ("/vm/v1/heartbeat", {"issued_at": 1, "revisions": {}, "health": {}, "more": 1}, 422),
    ("/vm/v1/pull", {"revisions": None}, 422),
    ("/vm/v1/pull", {"revisions": {"a": HUGE}}, 422),
    ("/vm/v1/pull", b" " * 70_000, 413),
    ("/vm/v1/ack", {"acks": {}}, 422),
    ("/vm/v1/ack", {"acks": [{}] * 300}, 422),
    ("/vm/v1/ack", {"acks": [{}]}, 422),
    ("/vm/v1/ack", {"acks": [{"instance_id": "x"}]}, 422),
]


async def test_what_a_machine_says_wrongly_changes_nothing(world: World) -> None:
    agent, vm = await world.running()
    before = await world.instance(agent)
    for path, document, status in WRONG:
        answer = await vm.post(path, document)
        assert answer.status_code == status, (path, document, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    after = await world.instance(agent)
    assert (after.heartbeat_issued_at, after.health) == (before.heartbeat_issued_at, before.health)
    assert after.state == "running"


async def test_an_acknowledgement_of_another_machine_is_refused(world: World) -> None:
    _, one = await world.running()
    agent, two = await world.running()
    acks: list[dict[str, Any]] = []
    taking = one.take
    one.take = lambda push: acks.append(taking(push)) or acks[-1]  # type: ignore[method-assign, func-returns-value]
    one.held.clear()
    await one.pull()
    assert acks
    before = await world.agent(agent["id"])
    assert (await two.post("/vm/v1/ack", {"acks": acks})).status_code == 422
    assert (await world.agent(agent["id"]))["deliveries"] == before["deliveries"]
