"""Every route for callers whose business it is not: nobody, and somebody of another tenant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aura_core.wire import VmKeys
from tests.control.surface.conftest import Surface, machine
from tests.control.surface.table import TABLE
from tests.control.surface.test_bad_input import Trial, right

HEADERS = [None, "Bearer", "Bearer x", "Basic YTpi", "Bearer aura_" + "x" * 43, "Bearer é"]


async def test_without_a_token_there_is_nothing(surface: Surface) -> None:
    trial, before = Trial(surface), await surface.everything()
    for entry in (entry for entry in TABLE if entry.needs == "token"):
        path = entry.at(agent_id=surface.agent_id)
        for header in HEADERS:
            headers = [] if header is None else [(b"Authorization", header.encode())]
            request = {**right(entry), "headers": headers}
            await trial.send(surface.nobody, entry, path, (401,), **request)
            if entry.method == "GET":
                answer = await surface.nobody.head(path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
    assert trial.wrong == []
    assert await surface.everything() == before
    assert surface.provider.calls == []


@pytest.mark.parametrize("who", ["another tenant", "a colleague"])
async def test_others_find_and_change_nothing(surface: Surface, who: str) -> None:
    """By the ids of the owner's agent, and under the names of the owner's connections; a colleague
    is another user of the owner's tenant."""
    other = surface.stranger if who == "another tenant" else await surface.colleague()
    trial, before = Trial(surface), await surface.everything()
    for entry in (entry for entry in TABLE if entry.needs == "token"):
        path = entry.at(agent_id=surface.agent_id)
        if entry.lists:
            answer = await other.get(path)
            assert answer.json() == {entry.lists: []}
        elif "{id}" in entry.path or entry.path.endswith("/validate") or entry.method == "DELETE":
            await trial.send(other, entry, path, (404,), **right(entry))
        elif entry.agent_field:
            names = {entry.agent_field: surface.agent_id}
            request: dict[str, Any] = {"params": names}
            if entry.takes == "json":
                request = {"json": {**entry.good, **names}}
            await trial.send(other, entry, path, (404,), **request)
        else:
            # Whose it is, is nowhere in the request: there is nothing of another to name.
            assert entry.key in {
                ("GET", "/api/providers"),
                ("GET", "/api/events"),  # has no end; ``test_events_kept`` reads it for others
                ("POST", "/api/agents"),
            }
    assert trial.wrong == []
    assert await surface.everything() == before
    assert surface.provider.calls == []


async def test_what_another_tenant_makes_is_its_own(surface: Surface) -> None:
    """The routes that make something, used rightly by the stranger, leave the owner's alone."""

    async def mine() -> list[Any]:
        paths = ("/api/integrations", "/api/agents", f"/api/agents/{surface.agent_id}")
        return [(await surface.owner.get(path)).json() for path in paths]

    before = await mine()
    made = []
    for entry in TABLE:
        if entry.needs == "token" and entry.status in (201, 302):
            answer = await surface.stranger.request(
                entry.method, entry.at(agent_id=surface.agent_id), **right(entry)
            )
            assert answer.status_code == entry.status, answer.text
            made.append(entry.key)
    assert len(made) == 4
    assert await mine() == before
    assert len((await surface.stranger.get("/api/agents")).json()["agents"]) == 1


@pytest.mark.parametrize(
    "who", ["unsigned", "other keys", "other machine", "unknown", "other path"]
)
async def test_a_machine_speaks_for_itself_only(surface: Surface, who: str) -> None:
    _, other = await machine(surface.world)
    trial, before = Trial(surface), await surface.everything()
    for entry in (entry for entry in TABLE if entry.needs == "machine"):
        content = json.dumps(entry.good).encode()
        vm = surface.vm
        headers = {
            "unsigned": {},
            "other keys": vm.signed(entry.path, content, keys=VmKeys.generate()),
            "other machine": {
                **other.signed(entry.path, content), "Aura-Instance": vm.instance_id
            },
            "unknown": vm.signed(entry.path, content, instance_id="0" * 32),
            "other path": vm.signed("/vm/v1/other", content),
        }[who]  # fmt: skip
        await trial.send(
            surface.nobody, entry, entry.path, (401,), content=content, headers=headers
        )
    assert trial.wrong == []
    assert await surface.everything() == before
