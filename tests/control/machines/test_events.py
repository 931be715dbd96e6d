"""Following events over a real connection: an agent's, and all that are a user's."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import respx
import uvicorn
from sqlalchemy import text

from aura_control.bootstrap import issue_token
from aura_control.db.columns import new_id
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.services.watching import prune
from tests.control.machines.world import World


@pytest.fixture
async def served(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The world's application behind a real server: streams need one."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(world.app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, headers=world.http.headers, timeout=40) as http:
        yield http
    world.services.events.close()
    server.should_exit = True
    await task
    listener.close()


async def follow(
    http: httpx.AsyncClient, agent_id: str, last_id: str | None = None, *, path: str | None = None
) -> AsyncGenerator[tuple[int, str, dict[str, Any]], None]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    number, kind = 0, ""
    async with http.stream(
        "GET", path or f"/api/agents/{agent_id}/events", headers=headers
    ) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                yield number, kind, json.loads(line[6:])


async def test_events_come_as_they_happen_and_none_is_missed(
    world: World, served: httpx.AsyncClient
) -> None:
    agent = await world.deploy()
    seen: list[tuple[int, str]] = []
    async with aclosing(follow(served, agent["id"])) as events:
        async for number, kind, data in events:
            seen.append((number, kind))
            assert data["at"]
            if data.get("state") == "running":
                break
    assert [kind for _, kind in seen] == [kind for kind, _ in await world.events(agent["id"])]
    assert [number for number, _ in seen] == sorted({number for number, _ in seen})


async def test_a_watcher_goes_on_from_where_it_was(world: World, served: httpx.AsyncClient) -> None:
    agent, vm = await world.running()
    numbers = []
    async with aclosing(follow(served, agent["id"])) as events:
        async for number, _, data in events:
            numbers.append(number)
            if data.get("state") == "running":
                break
    vm.health = {"runtime": {"ready": False}}
    await vm.heartbeat()
    async with aclosing(follow(served, agent["id"], str(numbers[-1]))) as events:
        number, kind, data = await anext(events)
    assert number > numbers[-1]
    assert (kind, data["state"]) == ("instance.degraded", "degraded")


async def test_the_stream_ends_with_the_agent(world: World, served: httpx.AsyncClient) -> None:
    agent, _ = await world.running()
    await served.delete(f"/api/agents/{agent['id']}")
    kinds = [kind async for _, kind, _ in follow(served, agent["id"])]
    assert kinds[-1] == "instance.destroyed"


async def test_the_stream_ends_with_the_control_plane(
    world: World, served: httpx.AsyncClient
) -> None:
    agent, _ = await world.running()
    events = follow(served, agent["id"])
    async with aclosing(events):
        await anext(events)
        world.services.events.close()
        async with asyncio.timeout(60):
            assert [kind async for _, kind, _ in events]


@pytest.mark.parametrize("whose", ["agent", "user"])
async def test_the_stream_ends_with_the_token_that_opened_it(
    world: World, served: httpx.AsyncClient, whose: str
) -> None:
    agent, vm = await world.running()
    path = f"/api/agents/{agent['id']}/events" if whose == "agent" else "/api/events"
    events = follow(served, "", "0", path=path)
    async with aclosing(events):
        await anext(events)
        async with world.services.database.transaction() as tx:
            await tx.session.execute(text("UPDATE api_tokens SET revoked_at = created_at"))
        vm.health = {"runtime": {"ready": False}}
        await vm.heartbeat()
        async with asyncio.timeout(60):
            told = [data.get("state") async for _, _, data in events]
    assert told[-1] != "degraded", "it happened after the token was revoked"


async def test_a_watcher_who_leaves_is_forgotten(world: World, served: httpx.AsyncClient) -> None:
    agent, vm = await world.running()
    async with aclosing(follow(served, agent["id"])) as events:
        await anext(events)
        assert world.services.events.following(agent["id"]) == 1  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while world.services.events.following(agent["id"]):  # type: ignore[attr-defined]
            await vm.heartbeat()


async def test_a_last_id_that_is_none_is_refused(world: World) -> None:
    agent = await world.deploy()
    for wrong in ("x", "-1", "1.5", "9" * 30, "٣"):
        answer = await world.http.get(
            f"/api/agents/{agent['id']}/events", headers={b"Last-Event-ID": wrong.encode()}
        )
        assert answer.status_code == 422, wrong


def follow_user(
    http: httpx.AsyncClient, last_id: str | None = None
) -> AsyncGenerator[tuple[int, str, dict[str, Any]], None]:
    return follow(http, "", last_id, path="/api/events")


@pytest.fixture
def provider() -> Iterator[respx.Router]:
    with respx.mock(assert_all_called=False) as router:
        router.route(host="127.0.0.1").pass_through()
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        yield router


async def mark(world: World, connection: dict[str, Any], state: ConnectionState) -> None:
    """As the refresher or a provider's answer would."""
    async with world.services.database.transaction() as tx:
        assert await tx.integrations.mark(
            tenant_id=world.owner.tenant_id,
            connection_id=connection["id"],
            state=state,
            reason="The provider says so.",
        )


async def test_a_user_is_told_of_each_change_of_a_connection_and_of_no_other_users(
    world: World, served: httpx.AsyncClient, provider: respx.Router
) -> None:
    agent, vm = await world.running()
    everything = follow_user(served, "0")
    async with aclosing(everything):
        connection = await world.connect()
        async with world.services.database.reading() as tx:
            (theirs,) = await tx.agents.list(
                tenant_id=world.owner.tenant_id, user_id=world.owner.user_id
            )
        assert theirs.id == agent["id"]
        await world.other.post("/api/integrations/notes", json={"fields": {"api_key": "k" * 16}})
        await world.settled(agent["id"])
        for state in (
            ConnectionState.EXPIRING,
            ConnectionState.UNCERTAIN,
            ConnectionState.REAUTH_REQUIRED,
        ):
            await mark(world, connection, state)
        await world.http.delete("/api/integrations/notes")
        seen = []
        async with asyncio.timeout(30):
            async for _, kind, data in everything:
                if kind.startswith("connection."):
                    seen.append((kind.removeprefix("connection."), data))
                if kind == "connection.wiped":
                    break
    assert [kind for kind, _ in seen] == [
        "connected", "expiring", "uncertain", "reauth_required", "disconnected", "wiped",
    ]  # fmt: skip
    for kind, data in seen:
        assert (data["connection_id"], data["provider"]) == (connection["id"], "notes")
        if kind != "wiped":
            assert data["state"] == kind
            assert data["agent_id"] is None
    assert seen[3][1]["reason"] == "The provider says so."
    assert seen[-1][1]["instance_id"] == vm.instance_id
    assert "key-0123456789" not in json.dumps(seen)


async def colleague(world: World) -> tuple[str, dict[str, str]]:
    """Another user of the owner's tenant: id, and headers to sign in."""
    database, tenant_id, user_id = world.services.database, world.owner.tenant_id, new_id()
    async with database.transaction() as tx:
        await tx.users.create(
            tenant_id=tenant_id, user_id=user_id, email="c@example.org", actor="system"
        )
    token = await issue_token(database, tenant_id=tenant_id, user_id=user_id, name="first")
    return user_id, {"Authorization": f"Bearer {token}"}


async def test_a_machine_that_claims_anothers_connection_tells_its_user_nothing_of_it(
    world: World, provider: respx.Router
) -> None:
    """It is told to forget it, and says that it did: neither user hears of the other's."""
    agent, vm = await world.running()
    user_id, headers = await colleague(world)
    made = await world.anonymous.post(
        "/api/integrations/notes", json={"fields": {"api_key": "k" * 16}}, headers=headers
    )
    theirs = made.json()["id"]
    claimed = vm.held["policy"]
    vm.held[theirs] = type(claimed)(
        revision=claimed.revision, digest="1" * 64, op="put", content={"kind": "credential"}
    )
    await vm.heartbeat()
    await world.settled(agent["id"])
    assert vm.held[theirs].op == "delete"
    kinds: dict[str, list[str]] = {}
    async with world.services.database.reading() as tx:
        for user in (world.owner.user_id, user_id):
            events = await tx.events.of_user(
                tenant_id=world.owner.tenant_id, user_id=user, limit=1000
            )
            kinds[user] = [one.kind for one in events if theirs in json.dumps(one.data)]
            assert not [one for one in events if one.kind == "connection.wiped"]
    assert kinds[user_id] == ["connection.connected"]
    # What its own machine was told to forget has an id, which the machine knew, and no more.
    assert kinds[world.owner.user_id] == ["delivery.acknowledged"]


async def test_without_an_id_only_what_is_to_come_and_then_on_without_a_gap(
    world: World, served: httpx.AsyncClient, provider: respx.Router
) -> None:
    connection = await world.connect()
    async with served.stream("GET", "/api/events") as stream:
        lines = stream.aiter_lines()
        first = [await anext(lines) for _ in range(2)]
    start = first[1].removeprefix("id: ")
    # Cut off before the first event: what comes meanwhile is there when it reads on.
    await mark(world, connection, ConnectionState.EXPIRING)
    await mark(world, connection, ConnectionState.REAUTH_REQUIRED)
    async with aclosing(follow_user(served, start)) as events:
        kinds = [(await anext(events))[1] for _ in range(2)]
    assert kinds == ["connection.expiring", "connection.reauth_required"]


async def test_what_another_process_commits_is_seen(
    world: World, served: httpx.AsyncClient, provider: respx.Router
) -> None:
    connection = await world.connect()
    other = Database.open(world.settings.database, audit_key=world.services.vault.audit_key)
    async with aclosing(follow_user(served, "0")) as events:
        while (await anext(events))[1] != "connection.connected":
            pass
        async with other.transaction() as tx:
            await tx.integrations.mark(
                tenant_id=world.owner.tenant_id,
                connection_id=connection["id"],
                state=ConnectionState.EXPIRING,
                reason=None,
            )
        async with asyncio.timeout(30):
            assert (await anext(events))[1] == "connection.expiring"
    await other.close()


async def test_whoever_comes_back_too_late_is_told(
    world: World, served: httpx.AsyncClient, provider: respx.Router
) -> None:
    connection = await world.connect()
    async with aclosing(follow_user(served, "0")) as events:
        number, _, _ = await anext(events)
    for state in (ConnectionState.EXPIRING, ConnectionState.UNCERTAIN):
        await mark(world, connection, state)
    async with world.services.database.transaction() as tx:
        await tx.session.execute(
            text("UPDATE events SET at = :at"), {"at": "2020-01-01 00:00:00.000000"}
        )
    await mark(world, connection, ConnectionState.REAUTH_REQUIRED)
    assert await prune(world.services) >= 3
    assert await prune(world.services) == 0
    async with aclosing(follow_user(served, str(number))) as events:
        _, kind, data = await anext(events)
        assert (kind, data["after"]) == ("gap", number)
        latest, kind, _ = await anext(events)
        assert kind == "connection.reauth_required"
    await mark(world, connection, ConnectionState.EXPIRING)
    async with aclosing(follow_user(served, str(latest))) as events:
        assert (await anext(events))[1] == "connection.expiring"
