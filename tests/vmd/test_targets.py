"""Targets, hosts, methods and bodies that the broker does not take."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aura_vmd.broker import BrokerLimits
from tests.vmd.control_plane import Control
from tests.vmd.harness import Machine, Provider, ask, binding, credential, enrolled, policy


@pytest.mark.parametrize(
    "path",
    [
        "/mail/../admin",
        "/mail/%2e%2e/admin",
        "/mail/..%2fadmin",
        "/mail/%252e%252e/admin",
        "//evil.example/mail/1",
        "/mail//1",
        "/mail/%00",
        "/mail/1%0d%0aX-Injected:%201",
        "/mail\\..\\admin",
        "/http://evil.example/mail",
    ],
)
async def test_a_path_that_reads_in_two_ways_is_refused(
    connected: Machine, provider: Provider, path: str
) -> None:
    # Sent raw: a client library would tidy the path up.
    reader, writer = await asyncio.open_unix_connection(connected.settings.layout.broker_socket)
    writer.write(f"GET /v1/mailer{path} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split(b" ")[1] in (b"400", b"403")
    assert provider.calls == []


@pytest.mark.parametrize(
    "target", ["http://evil.example/v1/mailer/mail/1", "*", "/v2/mailer/x", "/v1/mailer", "/"]
)
async def test_other_targets_are_not_found(
    connected: Machine, provider: Provider, target: str
) -> None:
    reader, writer = await asyncio.open_unix_connection(connected.settings.layout.broker_socket)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split(b" ")[1] in (b"400", b"404")
    assert provider.calls == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("169.254.169.254", 403),
        ("a@evil.example", 400),
        ("EXAMPLE.COM", 400),
        ("evil.example/x?", 400),
        ("", 400),
    ],
)
async def test_another_host_must_be_one_of_the_manifests(
    connected: Machine, provider: Provider, host: str, status: int
) -> None:
    assert (await ask(connected, "/v1/mailer/mail/1", headers={"Aura-Host": host}))[0] == status
    assert provider.calls == []


@pytest.mark.parametrize("url", ["https://localhost", "https://127.0.0.1", "https://[::1]"])
async def test_a_private_address_is_not_called(machine: Machine, url: str) -> None:
    await machine.deliver("c-1", credential(binding(url)))
    await machine.deliver("policy", policy("email:read"))
    status, _, body = await ask(machine, "/v1/mailer/mail/1")
    assert (status, json.loads(body)["rule"]) == (403, "address:private")


async def test_a_body_has_a_limit(root: Path, control: Control, provider: Provider) -> None:
    limits = BrokerLimits(request_body=1000)
    async with enrolled(root, control, limits=limits) as machine:
        await machine.deliver("c-1", credential(binding(provider.url)))
        await machine.deliver("policy", policy("email:send"))
        send = "/v1/mailer/mail/send"
        assert (await ask(machine, send, method="POST", data=b"x" * 1000))[0] == 200
        assert (await ask(machine, send, method="POST", data=b"x" * 1001))[0] == 413

        async def endless() -> Any:
            for _ in range(100):
                yield b"x" * 100

        assert (await ask(machine, send, method="POST", data=endless()))[0] == 413
        assert len(provider.calls) == 1


@pytest.mark.parametrize("header", [{"Content-Encoding": "gzip"}, {"Upgrade": "websocket"}])
async def test_encoded_bodies_and_upgrades_are_refused(
    connected: Machine, provider: Provider, header: dict[str, str]
) -> None:
    assert (await ask(connected, "/v1/mailer/mail/1", headers=header))[0] == 400
    assert provider.calls == []


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND", "CONNECT"])
async def test_other_methods_are_refused(
    connected: Machine, provider: Provider, method: str
) -> None:
    reader, writer = await asyncio.open_unix_connection(connected.settings.layout.broker_socket)
    writer.write(f"{method} /v1/mailer/mail/1 HTTP/1.1\r\nHost: b\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split(b" ")[1] in (b"400", b"404", b"405")
    assert provider.calls == []


@pytest.mark.parametrize("path", ["/mail" + "/b" * 200, "/mail/" + "b%2f" * 200])
async def test_a_path_of_very_many_segments_is_refused(
    connected: Machine, provider: Provider, path: str
) -> None:
    assert (await ask(connected, f"/v1/mailer{path}"))[0] == 400
    assert provider.calls == []
