"""The recorded vectors, through the daemon: what it sends and what it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aura_core.wire import verify_ack
from aura_vmd.control import control_client
from aura_vmd.enrol import enrol, load_enrolment, load_or_make_keys
from aura_vmd.settings import Settings
from tests.vectors import generate
from tests.vmd.control_plane import Control
from tests.vmd.harness import Machine, ask, running, serving, write_settings

HERE = Path(generate.__file__).parent


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return document


JOIN = load("join")


@pytest.fixture
def recorded(root: Path, control: Control) -> Settings:
    """The files of the machine that the vectors are about."""
    control.down = True
    settings = write_settings(root, control, **identity())
    (settings.layout.state / "keys.json").write_text(json.dumps(JOIN["keys"]["vm"]))
    settings.layout.join_token.write_text(json.loads(JOIN["request"])["join_token"])
    return settings


def identity() -> dict[str, Any]:
    return {
        "instance_id": generate.INSTANCE,
        "control_public_keys": JOIN["keys"]["control_public_keys"],
    }


class Recorder:
    """The recorded answer, for whoever asks as recorded."""

    async def join(self, request: bytes) -> bytes:
        assert request.decode() == JOIN["request"]
        answer: str = JOIN["answer"]
        return answer.encode()


async def test_joining(recorded: Settings) -> None:
    keys = load_or_make_keys(recorded)
    enrolled = await enrol(recorded, keys, Recorder(), now_ms=lambda: generate.ISSUED_AT)
    assert enrolled.gateway_token.get_secret_value() == JOIN["content"]["gateway_token"]
    assert enrolled.heartbeat_seconds == JOIN["content"]["heartbeat_seconds"]
    assert load_enrolment(recorded, keys) == enrolled


async def test_messages_and_acknowledgements(recorded: Settings, control: Control) -> None:
    (recorded.layout.state / "enrolment.json").write_text(JOIN["answer"])
    root = recorded.layout.state.parents[2]
    async with running(root, control, **identity()) as machine:
        for case in load("push")["cases"]:
            ack = await _push(machine, case["message"])
            assert ack.digest == case["digest"]
        status, _, body = await ask(machine, "/v1")
        assert (status, [p["provider"] for p in json.loads(body)["providers"]]) == (200, ["acme"])
        status, _, body = await ask(machine, "/v1/acme/files")
        assert (status, json.loads(body)["rule"]) == (403, "scope:api:outbound")


async def _push(machine: Machine, message: str) -> Any:
    subject = json.loads(message)["header"]["connection_id"]
    status, document = await machine.push(
        subject, message.encode(), bearer=JOIN["content"]["gateway_token"]
    )
    assert status == 200, document
    return verify_ack(document, load_or_make_keys(machine.settings).sig_public)


async def test_what_it_signs(recorded: Settings) -> None:
    expected = load("signed_by_machine")["request"]
    seen: list[tuple[Mapping[str, str], str]] = []

    async def take(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers, await request.text()))
        return web.json_response({})

    app = web.Application()
    app.router.add_route(expected["method"], expected["path"], take)
    async with (
        serving(app) as url,
        control_client(
            url=url,
            instance_id=recorded.instance_id,
            keys=load_or_make_keys(recorded),
            now_ms=lambda: generate.ISSUED_AT,
        ) as client,
    ):
        await client.heartbeat(revisions=json.loads(expected["body"])["revisions"], health={})
    ((headers, body),) = seen
    assert body == expected["body"]
    assert expected["headers"].items() <= headers.items()
