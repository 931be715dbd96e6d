"""Level-triggered delivery against a control plane that comes and goes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aura_core.wire import ControlKeys, VmKeys, parse_push, push_digest
from tests.vmd.control_plane import GATEWAY_TOKEN, Control, until
from tests.vmd.harness import (
    TOKEN,
    Machine,
    Provider,
    ask,
    binding,
    credential,
    enrolled,
    policy,
    running,
    skill,
)


async def test_a_new_machine_pulls_what_it_lacks_and_acknowledges_it(
    root: Path, control: Control, provider: Provider
) -> None:
    async with enrolled(root, control) as machine:
        wanted = {
            "c-1": control.want("c-1", credential(binding(provider.url)), revision=3),
            "policy": control.want("policy", policy("email:read"), revision=4),
            "skill:mail-skill": control.want("skill:mail-skill", skill()[0], revision=5),
        }
        await until(lambda: len(control.acked) == 3, changed=control.changed)
        assert control.acked == {
            subject: (parse_push(raw).header.revision, push_digest(raw))
            for subject, raw in wanted.items()
        }
        assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 200
        seen = len(control.heartbeats)
        await until(lambda: len(control.heartbeats) > seen, changed=control.changed)
        assert control.heartbeats[-1]["revisions"] == {
            "c-1": 3,
            "policy": 4,
            "skill:mail-skill": 5,
        }


async def test_a_message_that_cannot_be_used_does_not_hold_up_the_others(
    root: Path, control: Control
) -> None:
    async with enrolled(root, control):
        control.want("c-bad", b"not json", revision=1)
        control.want("policy", policy("email:read"), revision=1)
        await until(lambda: "policy" in control.acked, changed=control.changed)
        assert "c-bad" not in control.acked


async def test_what_is_pulled_is_checked_like_what_is_pushed(root: Path, control: Control) -> None:
    """Whoever answers in the control plane's place gets nothing in: it cannot sign."""
    async with enrolled(root, control) as machine:
        stranger, other = ControlKeys.generate(), VmKeys.generate().enc_public

        def plain(connection: str) -> bytes:
            return credential(binding("https://api.example.com"), connection=connection)

        control.desired = {
            "c-signer": control.seal("c-signer", plain("c-signer"), revision=5, signer=stranger),
            "c-there": control.seal("c-there", plain("c-there"), revision=5, instance="other"),
            "c-key": control.seal("c-key", plain("c-key"), revision=5, recipient=other),
            "policy": control.seal("policy", policy("email:read"), revision=5),
        }
        control.messages_at_once = 9
        await until(lambda: control.acked, changed=control.changed)
        seen = len(control.heartbeats)
        await until(lambda: len(control.heartbeats) > seen, changed=control.changed)
        assert control.heartbeats[-1]["revisions"] == {"policy": 5}
        assert set(control.acked) == {"policy"}
        held = machine.settings.layout.state / "sealed"
        assert [path.name for path in held.iterdir()] == ["policy.json"]


async def test_very_many_messages_are_acknowledged_in_parts(root: Path, control: Control) -> None:
    async with enrolled(root, control):
        for number in range(250):
            control.want(f"c-{number}", b"", revision=1, op="delete")
        control.messages_at_once = 250
        await until(lambda: len(control.acked) == 250, changed=control.changed)
        assert max(control.acks_at_once) <= 100


async def test_without_its_control_plane_the_machine_goes_on(
    root: Path, control: Control, provider: Provider
) -> None:
    async with enrolled(root, control) as machine:
        await machine.deliver("c-1", credential(binding(provider.url)))
        await machine.deliver("policy", policy("email:read"))
    control.down = True
    async with running(root, control) as machine:
        assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 200
        await machine.push("policy", control.seal("policy", policy(), revision=2**52))
        control.down = False
        seen = len(control.heartbeats)
        await until(lambda: len(control.heartbeats) > seen, changed=control.changed)
        assert control.heartbeats[-1]["revisions"]["policy"] == 2**52


async def test_an_acknowledgement_that_was_lost_is_handed_in_again(
    root: Path, control: Control
) -> None:
    control.acks_to_lose = 1
    async with enrolled(root, control):
        message = control.want("policy", policy("email:read"), revision=9)
        await until(lambda: "policy" in control.acked, changed=control.changed)
    assert control.acks_to_lose == 0
    assert control.acked["policy"] == (9, push_digest(message))


async def test_health_without_the_token_is_one_word(connected: Machine) -> None:
    assert await connected.health() == (200, {"status": "ok"})
    status, document = await connected.health(bearer="wrong")
    assert (status, document["type"]) == (401, "urn:aura:problem:bearer-rejected")


async def test_health_with_the_token_is_everything_but_secrets(connected: Machine) -> None:
    status, report = await connected.health(bearer=GATEWAY_TOKEN)
    assert status == 200
    assert len(report["load"]) == 3
    assert 0 < report["memory"]["available"] < report["memory"]["total"]
    assert 0 < report["disk"]["free"] < report["disk"]["total"]
    assert report["credentials"]["mailer"]["state"] == "usable"
    assert report["runtime"] == {"ready": True, "detail": {}}
    assert report["uptime_seconds"] >= 0
    assert {"version", "python", "skills", "store"} <= report.keys()
    assert TOKEN not in str(report)


async def test_a_taken_port_costs_pushes_and_nothing_else(root: Path, control: Control) -> None:
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        async with enrolled(root, control, listen={"host": "127.0.0.1", "port": port}) as machine:
            control.want("policy", policy("email:read"), revision=1)
            await until(lambda: "policy" in control.acked, changed=control.changed)
            assert json.loads((await ask(machine, "/v1"))[2])["permissions"] == ["email:read"]
            assert not machine.settings.layout.listen_file.exists()


@pytest.mark.parametrize(
    "said",
    [
        b"[" * 5000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"a":' * 9 + b"1" + b"}" * 9,
        ('{"a": "' + "\N{SNOWMAN}" * 2500 + '"}').encode(),
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}',
        b'{"a": "' + b"x" * 20_000 + b'"}',
        b"\xff",
        b"[1]",
    ],
)
async def test_a_hostile_runtime_cannot_silence_the_daemon(
    root: Path, control: Control, said: bytes
) -> None:
    async def runtime(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        writer.close()

    (root / "run/agent").mkdir(parents=True)
    server = await asyncio.start_unix_server(runtime, root / "run/agent/runtime.sock")
    readiness = {"socket": "/run/agent/runtime.sock"}
    async with server, enrolled(root, control, runtime={"readiness": readiness}):
        report = control.heartbeats[-1]["health"]["runtime"]
        assert report == {"ready": True, "detail": {"status": 200}}


async def test_the_runtimes_word_is_in_the_heartbeat(root: Path, control: Control) -> None:
    said = b'{"ready": true, "routines": {"a": {"runs": 3}}}'

    async def runtime(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /readyz ")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        await writer.drain()
        writer.close()

    readiness = {"socket": "/run/agent/runtime.sock", "path": "/readyz"}
    async with enrolled(root, control, runtime={"readiness": readiness}):
        assert control.heartbeats[-1]["health"]["runtime"]["ready"] is False
        server = await asyncio.start_unix_server(runtime, root / "run/agent/runtime.sock")
        async with server:
            await until(
                lambda: control.heartbeats[-1]["health"]["runtime"]["ready"],
                changed=control.changed,
            )
        detail = control.heartbeats[-1]["health"]["runtime"]["detail"]
        assert detail["routines"] == {"a": {"runs": 3}}
