"""An agent's limits in the control plane, and what its machine reports of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import respx
from sqlalchemy import update

from aura_control.db.models import AgentUsage
from aura_control.services.conduct import REFUSALS_PER_HOUR
from tests.control.machines.vm import Vm
from tests.control.machines.world import World

NOTES = "https://api.notes.example/v1/notes"
TWO = {"notes:read": {"max_per_hour": 2}}


@pytest.fixture
def provider() -> Any:
    with respx.mock(assert_all_called=False) as router:
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        router.get(NOTES).respond(json=[{"text": "milk"}])
        router.post(NOTES).respond(json={"id": 1, "usage": {"total": 60}})
        yield router


async def call(world: World, agent: dict[str, Any], tool: str = "notes_list", **given: Any) -> Any:
    return await world.http.post(
        f"/api/agents/{agent['id']}/tools/{tool}", json={"arguments": given}
    )


def minute() -> int:
    return int(time.time() // 60)


# -- the control plane's own calls


async def test_a_limit_lets_through_what_it_says(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(permissions={"scopes": ["notes:read"], "rate_limits": TWO})
    answers = [await call(world, agent) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    document = answers[2].json()
    assert document["type"] == "urn:aura:problem:limit-reached"
    assert document["rule"] == "rate:notes:read:hour"
    assert answers[2].headers["retry-after"] == str(round(document["retry_after"]))
    ended = await world.audited("tool.ended")
    assert (ended[-1]["outcome"], ended[-1]["rule"]) == ("refused", "rate:notes:read:hour")
    assert provider.get(NOTES).call_count == 2
    # The owner raises the limit: at once there is room again.
    more = {"rate_limits": {"notes:read": {"max_per_hour": 3}}}
    await world.http.patch(f"/api/agents/{agent['id']}", json={"permissions": more})
    assert [(await call(world, agent)).status_code for _ in range(2)] == [200, 429]


async def test_a_domain_that_is_not_allowed(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(
        permissions={"scopes": ["notes:read"], "allowed_domains": ["*.elsewhere.example"]}
    )
    answer = await call(world, agent)
    assert (answer.status_code, answer.json()["rule"]) == (403, "domain:api.notes.example")
    (ended,) = await world.audited("tool.ended")
    assert ended["rule"] == "domain:api.notes.example"
    assert provider.get(NOTES).call_count == 0


async def test_spent_tokens_refuse_what_costs_tokens(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(
        permissions={"scopes": ["notes:read", "notes:write"], "max_daily_token_spend": 100}
    )
    answers = [await call(world, agent, "notes_add", text="milk") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["rule"] == "spend:day"
    assert (await call(world, agent)).status_code == 200


async def test_a_provider_inside_is_refused_by_rule(world: World) -> None:
    """The one call outside, with the real client: its name resolves to no public address."""
    with respx.mock() as router:
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        await world.connect()
    agent = await world.deploy(permissions={"scopes": ["notes:read"], "rate_limits": TWO})
    answers = [await call(world, agent) for _ in range(3)]
    # .example resolves nowhere (RFC 6761 §6.5); what was never sent does not count.
    assert [answer.status_code for answer in answers] == [502] * 3


async def test_a_provider_that_the_agent_does_not_use(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(integrations=[], permissions={"scopes": ["notes:read"]})
    answer = await call(world, agent)
    assert (answer.status_code, answer.json()["rule"]) == (403, "integration:notes")
    (ended,) = await world.audited("tool.ended")
    assert (ended["outcome"], ended["rule"]) == ("refused", "integration:notes")
    assert provider.get(NOTES).call_count == 0


# -- the API


async def test_permissions_are_kept_in_the_one_spelling(world: World) -> None:
    agent = await world.deploy(
        permissions={
            "scopes": ["notes:read"],
            "rate_limits": {"notes:read": {"max_per_hour": 5, "max_per_day": 9}},
            "allowed_domains": ["API.Notes.Example.", "*.bücher.example"],
            "max_daily_token_spend": 1000,
        }
    )
    assert agent["permissions"] == {
        "scopes": ["notes:read"],
        "rate_limits": {"notes:read": {"max_per_hour": 5, "max_per_day": 9}},
        "allowed_domains": ["*.xn--bcher-kva.example", "api.notes.example"],
        "max_daily_token_spend": 1000,
    }
    path = f"/api/agents/{agent['id']}"
    only = await world.http.patch(path, json={"permissions": {"scopes": ["notes:write"]}})
    assert only.json()["permissions"] == {**agent["permissions"], "scopes": ["notes:write"]}
    none: dict[str, Any] = {
        "allowed_domains": None,
        "max_daily_token_spend": None,
        "rate_limits": {},
    }
    gone = await world.http.patch(path, json={"permissions": none})
    assert gone.json()["permissions"] == {"scopes": ["notes:write"]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"allowed_domains": ["a.example", "https://b.example"]}, "allowed_domains.1"),
    ({"allowed_domains": ["*"]}, "allowed_domains.0"),
    ({"allowed_domains": ["0x7f.1"]}, "allowed_domains.0"),
    ({"rate_limits": {"notes:read": {}}}, "rate_limits.notes:read"),
    ({"rate_limits": {"notes:read": {"max_per_hour": 0}}}, "rate_limits.notes:read.max"),
    ({"rate_limits": {"Notes": {"max_per_hour": 1}}}, "rate_limits.*"),
    ({"max_daily_token_spend": -1}, "max_daily_token_spend"),
    ({"max_daily_token_spend": "1"}, "max_daily_token_spend"),
    ({"more": 1}, "more"),
]


async def test_wrong_permissions_are_named(world: World) -> None:
    for permissions, field in WRONG:
        answer = await world.http.post(
            "/api/agents", json={"name": "Robin", "permissions": permissions}
        )
        assert answer.status_code == 422, permissions
        assert any(name.startswith(f"permissions.{field}") for name in answer.json()["fields"])


async def test_limits_reach_the_machine(world: World) -> None:
    _, vm = await world.running(permissions={"rate_limits": TWO, "allowed_domains": ["a.example"]})
    held = vm.held["policy"].content
    assert held is not None
    assert held["rate_limits"]["notes:read"]["max_per_hour"] == 2
    assert held["allowed_domains"] == ["a.example"]


# -- what machines report


def report(*counts: tuple[str, int, int], since: int = 0) -> dict[str, Any]:
    found = [{"what": what, "minute": at, "number": number} for what, at, number in counts]
    return {"counts": found, "since": since}


async def running(world: World) -> tuple[dict[str, Any], Vm]:
    return await world.running(permissions={"scopes": ["notes:read"], "rate_limits": TWO})


async def test_both_sides_count_for_one_agent(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent, vm = await running(world)
    now = minute()
    for _ in range(2):  # the answer was lost: the same again changes nothing
        answer = await vm.heartbeat(usage=report(("notes:read", now, 1)))
        assert answer.json()["usage"] == []
    assert [(await call(world, agent)).status_code for _ in range(2)] == [200, 429]
    (other,) = (await vm.heartbeat(usage=report(("notes:read", now, 1)))).json()["usage"]
    assert (other["what"], other["number"]) == ("notes:read", 1)
    late = await vm.heartbeat(usage=report(since=now + 5))
    assert late.json()["usage"] == []


async def test_what_no_limit_asks_for_is_not_kept(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent, vm = await running(world)
    now = minute()
    lies = [("notes:read", now - 3000, 99), ("notes:read", now + 60, 99), ("other:thing", now, 99),
            ("tokens", now, 99)]  # fmt: skip
    assert (await vm.heartbeat(usage=report(*lies))).status_code == 200
    assert [(await call(world, agent)).status_code for _ in range(3)] == [200, 200, 429]


def refusal(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "at": "2026-03-01T12:00:00.000+00:00",
        "method": "POST",
        "provider": "notes",
        "host": "api.notes.example",
        "path": "/v1/notes",
        "rule": "scope:notes:write",
        **changes,
    }


async def test_refused_calls_are_audited_once(world: World) -> None:
    agent, vm = await world.running()
    for _ in range(2):  # the answer was lost: the same again changes nothing
        answer = await vm.heartbeat(refused=[refusal(7), refusal(9, left_out=3)])
        assert answer.json()["refused_seen"] == 9
    await vm.heartbeat(refused=[refusal(9), refusal(12, rule="domain:evil.example")])
    entries = await world.audited("action.refused")
    assert [(entry["seq"], entry["rule"]) for entry in entries] == [
        (7, "scope:notes:write"), (9, "scope:notes:write"), (12, "domain:evil.example"),
    ]  # fmt: skip
    assert entries[0] == {
        "actor": f"vm:{vm.instance_id}",
        "target": f"agent:{agent['id']}",
        **refusal(7),
    }
    assert entries[1]["left_out"] == 3


async def test_a_hostile_machine_does_not_flood_the_chain(world: World) -> None:
    _, vm = await world.running()
    seen = 0
    for start in range(1, 500, 100):
        answer = await vm.heartbeat(refused=[refusal(start + n) for n in range(100)])
        seen = answer.json()["refused_seen"]
    assert seen == REFUSALS_PER_HOUR
    assert len(await world.audited("action.refused")) == REFUSALS_PER_HOUR
    # An hour later there is room for what the machine still keeps.
    async with world.services.database.transaction() as tx:
        earlier = update(AgentUsage).values(minute=AgentUsage.minute - 61)
        await tx.session.execute(earlier.where(AgentUsage.what == "refused"))
    answer = await vm.heartbeat(refused=[refusal(seen + n) for n in range(1, 4)])
    assert answer.json()["refused_seen"] == seen + 3


USAGE: list[Any] = [
    {}, {"counts": []}, {"counts": {}, "since": 0}, report(("a:b", 1, -1)),
    report(("a:b", 1, 2**53)), report(("A B", 1, 1)), report(*[("a:b", 1, 1)] * 257),
    {"counts": [["a:b", 1, 1]], "since": 0}, {"counts": [], "since": -1},
]  # fmt: skip
REFUSED: list[Any] = [
    [refusal(0 - 1)], [refusal(1, path="/\u001b[2J")], [refusal(1, path="x" * 257)],
    [refusal(1, rule=None)], [refusal(1, more=1)], [refusal(1, at="<b>")], "all",
    [refusal(n) for n in range(101)], [refusal(1.5)],  # type: ignore[arg-type]
]  # fmt: skip


async def test_reports_in_another_form_are_refused(world: World) -> None:
    _, vm = await running(world)
    for usage in USAGE:
        assert (await vm.heartbeat(usage=usage)).status_code == 422, usage
    for refused in REFUSED:
        assert (await vm.heartbeat(refused=refused)).status_code == 422, refused
    assert await world.audited("action.refused") == []
