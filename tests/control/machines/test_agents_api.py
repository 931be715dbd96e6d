"""``/api/agents`` for its owner, for others, and for those who send nonsense."""

from __future__ import annotations

from typing import Any

import httpx

from tests.control.machines.world import World


async def test_an_agent_can_be_read_and_changed(world: World) -> None:
    answer = await world.http.post(
        "/api/agents",
        json={
            "name": "Robin",
            "persona": {"role": "reads the inbox"},
            "permissions": {"scopes": ["notes:write", "notes:read"]},
            "config": {"volume": 3},
            "integrations": ["notes"],
        },
    )
    assert answer.status_code == 201
    agent = answer.json()
    assert answer.headers["location"] == f"/api/agents/{agent['id']}"
    assert agent["name"] == "Robin"
    assert agent["state"] == "requested"
    assert agent["compute"] == "scripted"
    assert agent["runtime"] == "quiet"
    assert agent["permissions"] == {"scopes": ["notes:read", "notes:write"]}
    assert agent["config"] == {"volume": 3}
    assert agent["integrations"] == ["notes"]
    await world.until_state(agent["id"], "running")
    listed = (await world.http.get("/api/agents")).json()["agents"]
    assert [a["id"] for a in listed] == [agent["id"]]
    path = f"/api/agents/{agent['id']}"
    changed = await world.http.patch(path, json={"name": "Wren", "config": {"volume": 1}})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["config"]) == ("Wren", {"volume": 1})
    assert changed.json()["persona"] == {"role": "reads the inbox"}
    assert changed.json()["permissions"] == agent["permissions"]
    assert (await world.http.patch(path, json={})).json()["name"] == "Wren"
    assert len(await world.audited("agent.updated")) == 1


async def test_without_permissions_an_agent_may_do_nothing(world: World) -> None:
    agent = await world.deploy()
    assert agent["permissions"] == {"scopes": []}
    assert agent["integrations"] is None


async def test_no_answer_holds_a_secret(world: World) -> None:
    agent, vm = await world.running()
    text = (await world.http.get(f"/api/agents/{agent['id']}")).text
    assert vm.join_token not in text
    assert vm.gateway_token not in text
    assert "push_url" not in text


DEEP: Any = "x"
for _ in range(40):
    DEEP = {"a": DEEP}

WRONG: list[tuple[Any, int]] = [
    (b"{", 400),
    (b"[" * 100_000, 413),
    (b"[" * 30_000, 400),
    (b'{"name": NaN}', 400),
    (b"\xff", 400),
    ([], 422),
    ("x", 422),
    ({}, 422),
    ({"name": ""}, 422),
    ({"name": 1}, 422),
    ({"name": None}, 422),
    ({"name": "x" * 81}, 422),
    ({"name": "a\x00b"}, 422),
    ({"name": "a\nb"}, 422),
    (b'{"name": "\\ud800"}', 422),
    ({"name": "A", "more": 1}, 422),
    ({"name": "A", "compute": "nowhere"}, 422),
    ({"name": "A", "compute": "../../x"}, 422),
    ({"name": "A", "runtime": "nothing"}, 422),
    ({"name": "A", "integrations": "notes"}, 422),
    ({"name": "A", "integrations": ["unknown"]}, 422),
    ({"name": "A", "integrations": [1]}, 422),
    ({"name": "A", "permissions": ["notes:read"]}, 422),
    ({"name": "A", "permissions": {"scopes": "notes:read"}}, 422),
    ({"name": "A", "permissions": {"scopes": ["everything"]}}, 422),
    ({"name": "A", "permissions": {"scopes": ["a:b"] * 201}}, 422),
    ({"name": "A", "permissions": {"kind": "policy", "scopes": []}}, 422),
    ({"name": "A", "persona": {"role": 1}}, 422),
    ({"name": "A", "persona": {"role": "\x00"}}, 422),
    ({"name": "A", "persona": {"Role!": "x"}}, 422),
    ({"name": "A", "persona": {"role": "x" * 9000}}, 422),
    ({"name": "A", "config": {"volume": "loud"}}, 422),
    ({"name": "A", "config": []}, 422),
    ({"name": "A", "config": DEEP}, 422),
    ({"name": "A", "config": {"x": "\x00"}}, 422),
    (b'{"name": "A", "config": {"x": 1e999}}', 422),
    (b'{"name": "A", "config": {"x": "\\ud800"}}', 422),
]


async def send(http: httpx.AsyncClient, method: str, path: str, body: Any) -> httpx.Response:
    if isinstance(body, bytes):
        headers = {"Content-Type": "application/json"}
        return await http.request(method, path, content=body, headers=headers)
    return await http.request(method, path, json=body)


async def test_nonsense_deploys_nothing(world: World) -> None:
    for body, status in WRONG:
        answer = await send(world.http, "POST", "/api/agents", body)
        assert answer.status_code == status, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
    plain = await world.http.post("/api/agents", content=b"{}", headers={"Content-Type": "text/x"})
    assert plain.status_code == 415
    assert (await world.http.get("/api/agents")).json() == {"agents": []}
    assert world.compute.asked == []


async def test_nonsense_changes_nothing(world: World) -> None:
    agent = await world.deploy()
    path = f"/api/agents/{agent['id']}"
    await world.until_state(agent["id"], "running")
    before = await world.agent(agent["id"])
    fixed = [({"compute": "scripted"}, 422), ({"state": "running"}, 422), ({"id": "x"}, 422)]
    for body, status in [*WRONG, *fixed]:
        if isinstance(body, dict) and not body:
            continue  # changing nothing is not nonsense
        answer = await send(world.http, "PATCH", path, body)
        assert answer.status_code == status, (body, answer.text)
    tool = [(b"{", 400), ([], 422), ({"arguments": []}, 422), ({"text": "x"}, 422)]
    for body, status in tool:
        answer = await send(world.http, "POST", f"{path}/tools/notes_add", body)
        assert answer.status_code == status, (body, answer.text)
    assert await world.agent(agent["id"]) == before
