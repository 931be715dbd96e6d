"""Tools run in the control plane within the agent's permissions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import respx

from tests.control.machines.world import World

NOTES = "https://api.notes.example/v1/notes"


@pytest.fixture
def provider() -> Any:
    with respx.mock(assert_all_called=False) as router:
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        router.get(NOTES).respond(json=[{"text": "milk"}])
        router.post(NOTES).respond(json={"id": 1})
        yield router


async def call(world: World, agent: dict[str, Any], tool: str, **arguments: Any) -> Any:
    return await world.http.post(
        f"/api/agents/{agent['id']}/tools/{tool}", json={"arguments": arguments}
    )


async def test_a_tool_answers(world: World, provider: respx.Router) -> None:
    await world.connect(key="key-0123456789")
    agent = await world.deploy(permissions={"scopes": ["notes:read"]})
    answer = await call(world, agent, "notes_list")
    assert answer.status_code == 200
    assert answer.json() == {"result": [{"text": "milk"}]}
    request = provider.calls.last.request
    assert request.headers["x-key"] == "key-0123456789"
    called, ended = await world.audited("tool.called"), await world.audited("tool.ended")
    assert [entry["target"] for entry in called] == ["tool:notes_list"]
    assert [entry["outcome"] for entry in ended] == ["done"]


async def test_what_the_agent_may_not_do_is_refused(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(permissions={"scopes": ["notes:read"]})
    answer = await call(world, agent, "notes_add", text="buy milk")
    assert answer.status_code == 403
    assert answer.json()["rule"] == "scope:notes:write"
    assert not any(call.request.method == "POST" for call in provider.calls)
    (called,) = await world.audited("tool.called")
    (ended,) = await world.audited("tool.ended")
    assert called["arguments"] == ["text"]
    assert (ended["outcome"], ended["rule"]) == ("refused", "scope:notes:write")
    assert "milk" not in json.dumps([called, ended])


async def test_arguments_are_checked(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(permissions={"scopes": ["notes:write"]})
    for arguments in ({}, {"text": 1}, {"text": "x", "more": 1}):
        answer = await call(world, agent, "notes_add", **arguments)
        assert answer.status_code == 422, arguments
    assert not any(call.request.method == "POST" for call in provider.calls)


async def test_an_unknown_tool_is_not_found(world: World) -> None:
    agent = await world.deploy()
    for tool in ("nothing", "../x", "%00", "X" * 3000):
        assert (await call(world, agent, tool)).status_code == 404


async def test_a_tool_without_its_account_says_so(world: World) -> None:
    agent = await world.deploy()
    answer = await call(world, agent, "notes_list")
    assert answer.status_code == 409
    assert "/api/integrations/notes" in answer.json()["hint"]


async def test_an_agent_uses_the_integrations_that_it_was_given(
    world: World, provider: respx.Router
) -> None:
    await world.connect()
    agent = await world.deploy(permissions={"scopes": ["notes:read"]}, integrations=[])
    answer = await call(world, agent, "notes_list")
    assert answer.status_code == 403
    assert answer.json()["rule"] == "integration:notes"
    assert len(provider.calls) == 1  # connecting


async def test_the_providers_failure_is_said_as_such(world: World, provider: respx.Router) -> None:
    await world.connect()
    agent = await world.deploy(permissions={"scopes": ["notes:read"]})
    provider.get(NOTES).respond(503)
    answer = await call(world, agent, "notes_list")
    assert answer.status_code == 502
    (ended,) = await world.audited("tool.ended")
    assert ended["outcome"] == "ProviderUnavailable"
