"""The domain rule through the broker's real socket: no spelling of a host gets around it."""

from __future__ import annotations

import asyncio
import json

from tests.core.spellings import ODD
from tests.vmd.harness import Machine, Provider, binding, credential, policy


async def raw(machine: Machine, target: str, host: str | None) -> tuple[int, str]:
    """One request byte for byte, as no well-behaved client would write it."""
    socket = machine.settings.layout.broker_socket
    reader, writer = await asyncio.open_unix_connection(socket)
    head = f"GET {target} HTTP/1.1\r\nHost: broker\r\n"
    if host is not None:
        head += f"Aura-Host: {host}\r\n"
    writer.write((head + "\r\n").encode())
    try:
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    status = int(answer.split(b" ", 2)[1])
    body = answer.partition(b"\r\n\r\n")[2]
    try:
        return status, str(json.loads(body).get("rule", ""))
    except ValueError:
        return status, ""


async def test_no_spelling_gets_around_the_rule(machine: Machine, provider: Provider) -> None:
    """The provider's own host is a host of the manifest, and no allowed domain."""
    bound = binding(provider.url, hosts=(provider.netloc, "api.example.com"))
    await machine.deliver("c-1", credential(bound))
    await machine.deliver(
        "policy", policy("email:read", "api:outbound", allowed_domains=["api.example.com"])
    )
    assert await raw(machine, "/v1/mailer/mail/1", None) == (403, "domain:127.0.0.1")
    assert await raw(machine, "/v1/mailer/x", provider.netloc) == (403, "domain:127.0.0.1")
    port = provider.netloc.rpartition(":")[2]
    for text in (*ODD, *(f"{text}:{port}" for text in ODD)):
        status, rule = await raw(machine, "/v1/mailer/mail/1", text)
        assert status in (400, 403), text
        assert rule in ("", "host", "domain:127.0.0.1"), text
        status, _ = await raw(machine, f"/v1/mailer//{text}/mail/1", None)
        assert status in (400, 403), text
    assert provider.calls == []
