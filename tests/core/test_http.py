"""The client that all calls share: no cookies, no redirects, no answer without an end."""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
import respx
from pydantic import SecretStr

from aura_core.api import fetch, http_client, redact
from aura_core.errors import (
    ProviderRejected,
    ProviderUnavailable,
)
from tests.core.bound import BASE


async def test_the_client_keeps_no_cookies_and_follows_nothing(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with respx.mock:
        respx.get(f"{BASE}/login").respond(
            302, headers={"set-cookie": "session=1; Path=/", "location": f"{BASE}/next"}
        )
        route = respx.get(f"{BASE}/next").respond(200)
        reply = await fetch(http, "GET", f"{BASE}/login")
        assert reply.status == 302
        assert reply.cookies == {"session": "1"}
        await fetch(http, "GET", f"{BASE}/next")
    assert "cookie" not in route.calls.last.request.headers
    assert route.calls.last.request.headers["user-agent"].startswith("aura/")


async def test_the_environments_proxy_does_not_get_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with server, http_client() as client:
        with pytest.raises(ProviderUnavailable):
            await fetch(client, "GET", "http://127.0.0.1:1/")  # nobody listens there
    assert reached == []


class Answering(httpx.AsyncBaseTransport):
    """Answers in chunks, as the network does."""

    def __init__(self, body: bytes, encoding: str = "identity") -> None:
        self.body = body
        self.encoding = encoding
        self.sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": self.encoding}, stream=Chunks(self))


class Chunks(httpx.AsyncByteStream):
    def __init__(self, answering: Answering) -> None:
        self.answering = answering

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = self.answering.body
        for start in range(0, len(body), 1000):
            self.answering.sent += 1000
            yield body[start : start + 1000]


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (b"x" * 5000, "identity", None),
        (b"x" * 5001, "identity", "larger than 5000 bytes"),
        (gzip.compress(b"x" * 5000, mtime=0), "gzip", None),
        (gzip.compress(b"x" * 5001, mtime=0), "gzip", "larger than 5000 bytes"),
        (gzip.compress(b"x" * 3_000_000, mtime=0), "gzip", "larger than 5000 bytes"),
        (zlib.compress(b"x" * 5000), "deflate", None),
        (b"broken", "gzip", "damaged"),
        (b"?", "br", "in the encoding"),
    ],
)
async def test_answers_are_bounded(body: bytes, encoding: str, error: str | None) -> None:
    async with http_client(transport=Answering(body, encoding)) as http:
        fetching = fetch(http, "GET", f"{BASE}/v1", limit=5000)
        if error is None:
            assert (await fetching).body == b"x" * 5000
        else:
            with pytest.raises((ProviderRejected, ProviderUnavailable), match=error):
                await fetching


async def test_a_body_without_end_is_not_read_to_it() -> None:
    transport = Answering(b"x" * 1_000_000)
    async with http_client(transport=transport) as http:
        with pytest.raises(ProviderRejected):
            await fetch(http, "GET", f"{BASE}/v1", limit=5000)
    assert transport.sent == 6000


async def test_an_answer_that_never_ends_is_given_up() -> None:
    class Endless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    async with http_client(transport=Endless()) as http:
        with pytest.raises(ProviderUnavailable, match=r"within 0\.01 seconds"):
            await fetch(http, "GET", f"{BASE}/v1?key=s3cret", deadline=0.01)


def test_redacting_knows_other_spellings() -> None:
    secret = SecretStr('a/b+c "d"')
    text = redact(f'{secret.get_secret_value()} a%2Fb%2Bc%20%22d%22 a\\/b a/b+c \\"d\\"', [secret])
    assert text == "*** *** a\\/b ***"
    assert len(redact("x" * 1000, [])) <= 303


@pytest.mark.parametrize("before", ["", "x", "id:", "client:"])
@pytest.mark.parametrize("after", ["", "y", "zz", "tail"])
def test_redacting_reads_what_is_encoded(before: str, after: str) -> None:
    secret = SecretStr("s3cr3t-of-the-client?")
    plain = f"{before}{secret.get_secret_value()}{after}".encode()
    encoded = base64.b64encode(plain).decode()
    for spelling in (encoded, encoded.rstrip("="), base64.urlsafe_b64encode(plain).decode()):
        text = redact(f"cannot take Basic {spelling}, sorry", [secret])
        assert text == "cannot take Basic ***, sorry"
    assert redact(f"hash {plain.hex()}!", [secret]) == "hash ***!"
    assert redact("Authorization dGhpcyBpcyBubyBzZWNyZXQ=", [secret]).endswith("ZWNyZXQ=")


async def test_a_deadline_that_passed_says_that_the_call_may_have_done_something() -> None:
    async def silent(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("never answers")

    async with http_client(transport=httpx.MockTransport(silent)) as http:
        with pytest.raises(ProviderUnavailable) as caught:
            await fetch(http, "POST", "https://acme.example/token", deadline=0.05, spends=True)
    assert caught.value.effect == "unknown"


async def test_an_answer_that_came_while_the_process_was_stopped_is_read() -> None:
    """The loop is blocked past the deadline, as a stopped process is; the answer comes after it."""

    async def late(_: httpx.Request) -> httpx.Response:
        time.sleep(0.3)  # noqa: ASYNC251 - stops the whole process, which is the point
        await asyncio.sleep(0.01)
        return httpx.Response(200, content=b"tokens")

    async with http_client(transport=httpx.MockTransport(late)) as http:
        answer = await fetch(http, "POST", "https://acme.example/token", deadline=0.1, spends=True)
    assert answer.body == b"tokens"
