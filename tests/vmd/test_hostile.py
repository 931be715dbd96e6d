"""A hostile provider and a hostile agent: the credential stays, and so does the daemon."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from aura_vmd.broker import BrokerLimits
from aura_vmd.reflection import LARGEST_DECODED
from tests.vmd.control_plane import Control
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

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

ECHOES = {
    "as it is": TOKEN.encode(),
    "in a page": b"<p>" + f"Authorization: Bearer {TOKEN}".encode() + b"</p>",
    "quoted": quote(TOKEN, safe="").encode(),
    "JSON": json.dumps({"h": f"Bearer {TOKEN}"}).encode(),
    "JSON with escaped slashes": json.dumps({"h": TOKEN}).replace("/", "\\/").encode(),
    "base64": base64.b64encode(TOKEN.encode()),
}


def replying(answer: web.StreamResponse) -> Answer:
    async def reply(_: web.Request) -> web.StreamResponse:
        return answer

    return reply


@pytest.mark.parametrize("body", ECHOES.values(), ids=ECHOES.keys())
async def test_an_answer_that_repeats_the_credential_is_withheld(
    connected: Machine, provider: Provider, body: bytes
) -> None:
    provider.answer = replying(web.Response(body=b"x" * 500 + body + b"y" * 500))
    status, headers, answer = await ask(connected, "/v1/mailer/mail/1")
    assert (status, json.loads(answer)["rule"]) == (403, "reflected")
    assert headers["aura-answered-by"] == "broker"
    last = connected.actions()[-1]
    assert (last["outcome"], last["rule"], last["status"]) == ("withheld", "reflected", 200)


async def test_a_header_that_repeats_it(connected: Machine, provider: Provider) -> None:
    provider.answer = replying(web.Response(headers={"X-Echo": f"Bearer {TOKEN}"}))
    status, headers, body = await ask(connected, "/v1/mailer/mail/1")
    assert (status, json.loads(body)["rule"]) == (403, "reflected")
    assert TOKEN not in str(headers)


async def test_a_redirect_that_repeats_it(connected: Machine, provider: Provider) -> None:
    location = f"https://evil.example/?t={quote(TOKEN, safe='')}"
    provider.answer = replying(web.Response(status=302, headers={"Location": location}))
    status, headers, _ = await ask(connected, "/v1/mailer/mail/1")
    assert status == 403
    assert "location" not in headers


async def test_a_redirect_is_not_followed(connected: Machine, provider: Provider) -> None:
    location = "http://169.254.169.254/latest/meta-data"
    provider.answer = replying(web.Response(status=307, headers={"Location": location}))
    status, headers, _ = await ask(connected, "/v1/mailer/mail/1")
    assert (status, headers["location"]) == (307, location)
    assert len(provider.calls) == 1


async def test_the_pair_of_basic_is_a_secret_and_the_user_name_is_not(
    machine: Machine, provider: Provider
) -> None:
    fields = {"username": "alice@example.com", "password": "correct horse"}
    await machine.deliver("c-1", credential(binding(provider.url, **basic()), fields=fields))
    await machine.deliver("policy", policy("email:read"))
    provider.answer = replying(web.Response(text="hello alice@example.com"))
    assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 200
    pair = base64.b64encode(b"alice@example.com:correct horse").decode()
    provider.answer = replying(web.Response(text=f"you sent {pair}"))
    assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 403


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_a_compressed_answer_passes_as_it_is_unless_it_repeats_the_credential(
    connected: Machine, provider: Provider, compress: Callable[[bytes], bytes]
) -> None:
    encoding = {"Content-Encoding": "gzip" if compress is gzip.compress else "deflate"}
    harmless = compress(b"hello" * 1000)
    provider.answer = replying(web.Response(body=harmless, headers=encoding))
    status, headers, body = await ask(connected, "/v1/mailer/mail/1")
    assert (status, headers["content-encoding"], body) == (200, *encoding.values(), harmless)
    echo = compress(b"hello" * 20_000 + TOKEN.encode())
    provider.answer = replying(web.Response(body=echo, headers=encoding))
    status, _, body = await ask(connected, "/v1/mailer/mail/1")
    assert (status, json.loads(body)["rule"]) == (403, "reflected")


async def test_the_second_member_of_a_gzip_answer_is_searched(
    connected: Machine, provider: Provider
) -> None:
    body = gzip.compress(b"hello") + gzip.compress(TOKEN.encode())
    provider.answer = replying(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    assert (await ask(connected, "/v1/mailer/mail/1"))[0] == 403


@pytest.mark.parametrize(
    ("body", "encoding", "rule"),
    [
        (gzip.compress(bytes(LARGEST_DECODED + 1), mtime=0), "gzip", "size"),
        (b"not gzip at all", "gzip", "encoding"),
        (b"whatever", "br", "encoding"),
        (b"whatever", "gzip, gzip", "encoding"),
    ],
)
async def test_what_cannot_be_searched_is_withheld(
    connected: Machine, provider: Provider, body: bytes, encoding: str, rule: str
) -> None:
    provider.answer = replying(web.Response(body=body, headers={"Content-Encoding": encoding}))
    status, _, answer = await ask(connected, "/v1/mailer/mail/1")
    assert (status, json.loads(answer)["rule"]) == (403, rule)


def streaming(*pieces: bytes, length: int | None = None) -> Answer:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if length is not None:
            response.content_length = length
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return reply


async def test_a_long_answer_is_passed_on_whole(connected: Machine, provider: Provider) -> None:
    piece = bytes(range(256)) * 4096
    provider.answer = streaming(*[piece] * 4)
    status, _, body = await ask(connected, "/v1/mailer/mail/1")
    assert (status, body) == (200, piece * 4)


async def drain(answer: aiohttp.ClientResponse, into: bytearray) -> None:
    async for piece in answer.content.iter_any():
        into += piece


@pytest.mark.parametrize("at", [1, 17, len(TOKEN) - 1])
async def test_in_a_long_answer_the_credential_is_cut_off_before_it(
    connected: Machine, provider: Provider, at: int
) -> None:
    token = TOKEN.encode()
    filler = b"." * (2 * 1024 * 1024)
    provider.answer = streaming(filler, b"+" + token[:at], token[at:] + filler)
    received = bytearray()
    async with connected.broker() as broker, broker.get("/v1/mailer/mail/1") as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await drain(answer, received)
    assert b"+" + token[:1] not in received
    assert connected.actions()[-1]["rule"] == "reflected"


async def test_an_endless_answer_ends(root: Path, control: Control, provider: Provider) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    limits = BrokerLimits(answer_body=3_000_000)
    async with enrolled(root, control, limits=limits) as machine:
        await machine.deliver("c-1", credential(binding(provider.url)))
        await machine.deliver("policy", policy("email:read"))
        provider.answer = endless
        async with machine.broker() as broker:
            answer = await broker.get("/v1/mailer/mail/1")
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        assert machine.actions()[-1]["rule"] == "size"
        provider.answer = streaming(b"", length=3_000_001)
        status, _, body = await ask(machine, "/v1/mailer/mail/1")
        assert (status, json.loads(body)["rule"]) == (403, "size")


async def test_huge_headers_are_a_problem_of_the_providers(
    connected: Machine, provider: Provider
) -> None:
    provider.answer = replying(web.Response(headers={"X-Huge": "x" * 20_000}))
    status, _, body = await ask(connected, "/v1/mailer/mail/1")
    assert (status, json.loads(body)["type"]) == (502, "urn:aura:problem:provider-unavailable")


async def test_headers_between_two_hops_stay_there(connected: Machine, provider: Provider) -> None:
    headers = {
        "Connection": "X-Hop",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
        "Aura-Answered-By": "broker",
        "X-Kept": "yes",
        "Alt-Svc": 'h3="evil.example:443"',
    }
    provider.answer = replying(web.Response(headers=headers))
    _, seen, _ = await ask(connected, "/v1/mailer/mail/1")
    assert seen["x-kept"] == "yes"
    assert seen["aura-answered-by"] == "provider"
    assert not {"x-hop", "keep-alive", "alt-svc"} & seen.keys()


async def test_a_provider_that_talks_nonsense(machine: Machine) -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await machine.deliver("c-1", credential(binding(f"http://127.0.0.1:{port}")))
        await machine.deliver("policy", policy("email:read"))
        status, _, body = await ask(machine, "/v1/mailer/mail/1")
    assert (status, json.loads(body)["type"]) == (502, "urn:aura:problem:provider-unavailable")


async def test_the_agent_cannot_use_up_the_broker_for_longer_than_it_holds_on(
    connected: Machine,
) -> None:
    path = str(connected.settings.layout.broker_socket)
    opened = [await asyncio.open_unix_connection(path) for _ in range(64)]
    # All places are taken: the next connection is closed at once instead of queued.
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /v1 HTTP/1.1\r\nHost: b\r\n\r\n")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    # Deliveries have another way in.
    await connected.deliver("policy", policy("email:send"))
    for _, held in opened:
        held.close()
    await asyncio.gather(*(held.wait_closed() for _, held in opened))
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await ask(connected, "/v1"))[0] == 200
                break
            except aiohttp.ClientError:
                continue


async def test_huge_request_headers_are_refused(connected: Machine, provider: Provider) -> None:
    for headers in ({"X-Huge": "x" * 20_000}, {f"X-{n}": "1" for n in range(400)}):
        async with connected.broker() as broker:
            try:
                async with broker.get("/v1/mailer/mail/1", headers=headers) as answer:
                    assert answer.status == 400
            except aiohttp.ClientError:
                pass  # closed before all of it was sent
    assert provider.calls == []
    assert (await ask(connected, "/v1/mailer/mail/1"))[0] == 200


async def test_an_agent_that_hangs_up_costs_nothing(connected: Machine, provider: Provider) -> None:
    reached = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        reached.set()
        await go_on.wait()
        return web.Response(text="late")

    provider.answer = slow
    _, writer = await asyncio.open_unix_connection(connected.settings.layout.broker_socket)
    writer.write(b"GET /v1/mailer/mail/1 HTTP/1.1\r\nHost: b\r\n\r\n")
    await reached.wait()
    writer.transport.abort()
    go_on.set()
    provider.answer = None
    assert (await ask(connected, "/v1/mailer/mail/1"))[0] == 200
