"""The broker towards the agent: what it lets through, what it refuses, what it writes down."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from aura_core.manifest import Placement
from tests.vmd.control_plane import Control, until
from tests.vmd.harness import (
    TOKEN,
    Machine,
    Provider,
    ask,
    basic,
    binding,
    credential,
    enrolled,
    policy,
)


async def test_a_call_gets_the_credential_and_the_answer_comes_back(
    connected: Machine, provider: Provider
) -> None:
    status, headers, body = await ask(connected, "/v1/mailer/mail/messages?q=a%20b&q=c")
    assert (status, json.loads(body)) == (200, {"messages": [1, 2, 3]})
    assert headers["aura-answered-by"] == "provider"
    assert headers["content-type"].startswith("application/json")
    assert "set-cookie" not in headers
    (call,) = provider.calls
    assert (call["method"], call["path"]) == ("GET", "/mail/messages?q=a%20b&q=c")
    assert call["headers"]["authorization"] == f"Bearer {TOKEN}"
    assert call["headers"]["accept-encoding"] == "identity"


async def test_what_the_agent_sends_cannot_take_the_credentials_place(
    connected: Machine, provider: Provider
) -> None:
    sent = {
        "Authorization": "Bearer mine",
        "Cookie": "a=b",
        "X-HTTP-Method-Override": "DELETE",
        "X-Forwarded-Host": "evil.example",
        "Accept": "text/plain",
    }
    await ask(connected, "/v1/mailer/mail/1", headers=sent)
    headers = provider.calls[0]["headers"]
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["accept"] == "text/plain"
    assert not {"cookie", "x-http-method-override", "x-forwarded-host"} & headers.keys()


async def test_without_a_policy_nothing_is_allowed(machine: Machine, provider: Provider) -> None:
    await machine.deliver("c-1", credential(binding(provider.url)))
    status, headers, body = await ask(machine, "/v1/mailer/mail/1")
    document = json.loads(body)
    assert (status, document["rule"]) == (403, "scope:email:read")
    assert headers["content-type"] == "application/problem+json"
    assert headers["aura-answered-by"] == "broker"
    assert "email:read" in document["hint"]
    assert provider.calls == []


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("POST", "/mail/send", "scope:email:send"),
        ("DELETE", "/mail/1", "scope:api:outbound"),
        ("GET", "/other", "scope:api:outbound"),
    ],
)
async def test_a_refusal_names_its_rule(
    connected: Machine, provider: Provider, method: str, path: str, rule: str
) -> None:
    status, _, body = await ask(connected, f"/v1/mailer{path}", method=method)
    assert (status, json.loads(body)["rule"]) == (403, rule)
    assert provider.calls == []


async def test_permissions_change_with_the_next_message(
    connected: Machine, provider: Provider
) -> None:
    assert (await ask(connected, "/v1/mailer/mail/send", method="POST"))[0] == 403
    await connected.deliver("policy", policy("email:send"))
    assert (await ask(connected, "/v1/mailer/mail/send", method="POST", data=b"{}"))[0] == 200
    assert (await ask(connected, "/v1/mailer/mail/1"))[0] == 403
    assert provider.calls[0]["body"] == b"{}"


async def test_a_named_host_gets_the_complete_path(machine: Machine, provider: Provider) -> None:
    bound = binding(provider.url + "/api", hosts=(provider.netloc,), rules=())
    await machine.deliver("c-1", credential(bound))
    await machine.deliver("policy", policy("api:outbound"))
    await ask(machine, "/v1/mailer/x")
    await ask(machine, "/v1/mailer/x", headers={"Aura-Host": provider.netloc})
    assert [call["path"] for call in provider.calls] == ["/api/x", "/x"]


async def test_a_relocated_provider_is_reached_where_it_is(
    machine: Machine, provider: Provider
) -> None:
    bound = binding(
        "https://api.example.com",
        hosts=("api.example.com",),
        relocations={"api.example.com": f"{provider.url}/api.example.com"},
    )
    await machine.deliver("c-1", credential(bound))
    await machine.deliver("policy", policy("email:read"))
    assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 200
    assert provider.calls[0]["path"] == "/api.example.com/mail/1"


async def test_basic_credentials(machine: Machine, provider: Provider) -> None:
    bound = binding(provider.url, **basic())
    fields = {"username": "alice@example.com", "password": "correct horse"}
    await machine.deliver("c-1", credential(bound, fields=fields))
    await machine.deliver("policy", policy("email:read"))
    await ask(machine, "/v1/mailer/mail/1")
    pair = base64.b64encode(b"alice@example.com:correct horse").decode()
    assert provider.calls[0]["headers"]["authorization"] == f"Basic {pair}"


async def test_an_expired_credential_says_what_to_do(
    root: Path, control: Control, provider: Provider
) -> None:
    async with enrolled(root, control) as machine:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await machine.deliver("c-1", credential(binding(provider.url), expires_at=past))
        await machine.deliver("policy", policy("email:read"))
        status, _, body = await ask(machine, "/v1/mailer/mail/1")
        document = json.loads(body)
        assert (status, document["rule"]) == (503, "expired")
        assert document["type"] == "urn:aura:problem:credential-expired"
        assert "connect the account again" in document["hint"]
        assert provider.calls == []
        # The permission comes first: what is refused anyway is not told apart from the rest.
        assert (await ask(machine, "/v1/mailer/other"))[0] == 403
        seen = len(control.heartbeats)
        await until(lambda: len(control.heartbeats) > seen, changed=control.changed)
        report = control.heartbeats[-1]["health"]["credentials"]["mailer"]
        assert report["state"] == "expired"


async def test_the_overview_names_providers_and_permissions(
    connected: Machine, provider: Provider
) -> None:
    status, _, body = await ask(connected, "/v1")
    assert status == 200
    assert json.loads(body) == {
        "providers": [{"provider": "mailer", "state": "usable", "hosts": [provider.netloc]}],
        "permissions": ["email:read"],
        "limits": [],
    }
    assert TOKEN.encode() not in body


async def test_the_newest_of_two_connections_is_used(
    connected: Machine, provider: Provider
) -> None:
    bound = binding(provider.url)
    newer = credential(bound, connection="c-2", fields={"access_token": "another-token"})
    await connected.deliver("c-2", newer)
    await ask(connected, "/v1/mailer/mail/1")
    assert provider.calls[0]["headers"]["authorization"] == "Bearer another-token"


async def test_a_provider_that_is_away_is_a_problem_without_the_address(machine: Machine) -> None:
    await machine.deliver("c-1", credential(binding("http://127.0.0.1:1")))
    await machine.deliver("policy", policy("email:read"))
    status, _, body = await ask(machine, "/v1/mailer/mail/1")
    document = json.loads(body)
    assert (status, document["type"]) == (502, "urn:aura:problem:provider-unavailable")
    assert TOKEN.encode() not in body


async def test_a_large_body_arrives_whole(connected: Machine, provider: Provider) -> None:
    await connected.deliver("policy", policy("email:send"))
    body = bytes(range(256)) * 12_000
    sent = io.BytesIO(body)
    assert (await ask(connected, "/v1/mailer/mail/send", method="POST", data=sent))[0] == 200
    assert provider.calls[0]["body"] == body
    assert provider.calls[0]["headers"]["content-length"] == str(len(body))


async def test_head_has_no_body(connected: Machine, provider: Provider) -> None:
    status, _, body = await ask(connected, "/v1/mailer/mail/1", method="HEAD")
    assert (status, body) == (200, b"")


async def test_the_action_log_holds_what_was_done_and_no_values(
    connected: Machine, provider: Provider
) -> None:
    await connected.deliver("policy", policy("email:read", "email:send"))
    await ask(connected, "/v1/mailer/mail/1?secret=query-value")
    await ask(connected, "/v1/mailer/mail/send?x=1", method="POST", data=b"body-text")
    await ask(connected, "/v1/mailer/other?x=query-value")
    await ask(connected, "/v1/nobody/x?x=query-value")
    lines = connected.actions()
    assert [(line["outcome"], line["method"], line.get("path")) for line in lines] == [
        ("answered", "GET", "/mail/1"),
        ("asked", "POST", "/mail/send"),
        ("answered", "POST", "/mail/send"),
        ("refused", "GET", "/other"),
        ("refused", "GET", "/x"),
    ]
    assert lines[1]["id"] == lines[2]["id"]
    assert lines[0]["rule"] == "scope:email:read"
    assert lines[0]["status"] == 200
    assert lines[0]["host"] == provider.netloc
    assert lines[3]["rule"] == "scope:api:outbound"
    path = connected.settings.layout.state / "actions.jsonl"
    text = path.read_text()
    assert not any(word in text for word in ("query-value", "body-text", "ya29"))
    assert path.stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_recorded_is_not_done(connected: Machine, provider: Provider) -> None:
    await connected.deliver("policy", policy("email:send"))
    (connected.settings.layout.state / "actions.jsonl").mkdir()
    status, _, _ = await ask(connected, "/v1/mailer/mail/send", method="POST", data=b"{}")
    assert status == 500
    assert provider.calls == []


async def test_a_credential_in_the_path_is_not_in_the_log(
    machine: Machine, provider: Provider
) -> None:
    placement = Placement(at="path", name="token", format="{access_token}")
    bound = binding(provider.url, placements=(placement,))
    await machine.deliver("c-1", credential(bound, fields={"access_token": "bot:123456789"}))
    await machine.deliver("policy", policy("email:read"))
    assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 200
    assert provider.calls[0]["path"] == "/bot:123456789/mail/1"
    assert machine.actions()[0]["path"] == "/mail/1"
    # A marker says where it goes; the rest of the path stays as it was judged.
    for marker in ("{token}", "%7Btoken%7d"):
        assert (await ask(machine, f"/v1/mailer/mail/{marker}/a%3Fb%2Fc"))[0] == 200
        assert provider.calls[-1]["path"] == "/mail/bot:123456789/a%3Fb%2Fc"


async def test_many_calls_at_once(connected: Machine, provider: Provider) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0)
        return web.Response(body=request.path.encode())

    provider.answer = slow
    async with connected.broker() as broker:

        async def one(number: int) -> bytes:
            async with broker.get(f"/v1/mailer/mail/{number}") as answer:
                return await answer.read()

        found = await asyncio.gather(*(one(n) for n in range(40)))
    assert found == [f"/mail/{n}".encode() for n in range(40)]


async def test_a_connection_carries_one_request(connected: Machine) -> None:
    reader, writer = await asyncio.open_unix_connection(connected.settings.layout.broker_socket)
    one = b"GET /v1 HTTP/1.1\r\nHost: b\r\n\r\n"
    writer.write(one + one)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.count(b"HTTP/1.1 200") == 1


async def test_the_socket_is_the_groups(connected: Machine) -> None:
    layout = connected.settings.layout
    assert layout.broker_socket.stat().st_mode & 0o777 == 0o660
    assert layout.run.stat().st_mode & 0o777 == 0o750


async def test_the_client_library_sees_the_end_of_each_answer(connected: Machine) -> None:
    async with connected.broker() as broker:
        for _ in range(3):
            async with broker.get("/v1") as answer:
                assert answer.headers["Connection"] == "close"
        assert isinstance(broker.connector, aiohttp.UnixConnector)
