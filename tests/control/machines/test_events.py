"""Following an agent's events over a real connection."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import uvicorn

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
    http: httpx.AsyncClient, agent_id: str, last_id: str | None = None
) -> AsyncGenerator[tuple[int, str, dict[str, Any]], None]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    number, kind = 0, ""
    async with http.stream("GET", f"/api/agents/{agent_id}/events", headers=headers) as stream:
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
