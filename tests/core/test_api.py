"""Calls to providers: bound to hosts, bounded in size and patience, and silent about secrets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from aura_core.api import BoundApi, fetch, http_client, redact
from aura_core.credentials import BrokerBinding
from aura_core.errors import (
    AuraError,
    InvalidInput,
    PermissionDenied,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
    ReauthorizationRequired,
)
from aura_core.manifest import BEARER, Placement, RateLimit, Rule
from aura_core.permissions import AgentPermissions
from tests.core.providers import NOW, secrets

TOKEN = "token-0123456789"
BASE = "https://api.acme.example"


def bound(**changed: Any) -> BrokerBinding:
    facts: dict[str, Any] = {
        "provider": "acme",
        "base_url": BASE,
        "hosts": ("api.acme.example", "*.files.acme.example"),
        "placements": (BEARER,),
    }
    return BrokerBinding(**{**facts, **changed})


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as client:
        yield client


class Waits:
    """Counts what would have been slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def api(http: httpx.AsyncClient, waits: Waits | None = None, **options: Any) -> BoundApi:
    facts = options.pop("facts", {})
    fields = options.pop("fields", {"access_token": TOKEN})
    return BoundApi(
        bound(**facts),
        secrets(**fields),
        http,
        sleep=waits or Waits(),
        now=lambda: NOW,
        **options,
    )


BASIC = "Basic " + base64.b64encode(b"k3y-value:x").decode()


@pytest.mark.parametrize(
    ("placements", "place", "expected"),
    [
        ([BEARER], "authorization", f"Bearer {TOKEN}"),
        ([Placement(at="header", name="X-Token", format="{access_token}")], "x-token", TOKEN),
        ([Placement(at="header", name="Authorization", format="Token token={access_token}")],
         "authorization", f"Token token={TOKEN}"),
        ([Placement(at="query", name="key", format="{access_token}")], "?key", TOKEN),
        ([Placement(at="path", name="token", format="bot{access_token}")], "/", f"/bot{TOKEN}/v1"),
        ([Placement(at="body", name="key", format="{access_token}")], "json", TOKEN),
        ([Placement(at="basic", username="{access_token}", password="x")], "authorization", BASIC),
        ([BEARER, Placement(at="header", name="X-Two", format="{access_token}")], "x-two", TOKEN),
    ],
)  # fmt: skip
async def test_the_credential_goes_to_its_place(
    http: httpx.AsyncClient,
    respx_mock: respx.MockRouter,
    placements: list[Placement],
    place: str,
    expected: str,
) -> None:
    route = respx_mock.route(host="api.acme.example").respond(json={"ok": 1})
    fields = {"access_token": "k3y-value" if placements[0].at == "basic" else TOKEN}
    client = api(http, facts={"placements": tuple(placements)}, fields=fields)
    assert await client.post("/v1", query={"a": "b c"}, json={"x": 1}) == {"ok": 1}
    request = route.calls.last.request
    assert request.url.params["a"] == "b c"
    if place.startswith("?"):
        assert request.url.params[place[1:]] == expected
    elif place == "/":
        assert request.url.path == expected
    elif place == "json":
        assert f'"key": "{expected}"' in request.content.decode()
    else:
        assert request.headers[place] == expected


async def test_the_manifests_headers_and_query_go_along(
    http: httpx.AsyncClient, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.get(f"{BASE}/v1").respond(json=[])
    facts = {"headers": {"X-Version": "2026-01"}, "query": {"format": "json"}}
    await api(http, facts=facts).get("/v1", headers={"X-Version": "1", "Cookie": "a=b"})
    request = route.calls.last.request
    assert request.headers["x-version"] == "2026-01"
    assert request.url.params["format"] == "json"
    assert "cookie" not in request.headers


async def test_query_values_of_every_kind(
    http: httpx.AsyncClient, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.get(url__startswith=f"{BASE}/v1").respond(json={})
    await api(http).get("/v1?z=1", query={"a": ["x", "y&z"], "b": True, "c": 3})
    assert route.calls.last.request.url.query == b"z=1&a=x&a=y%26z&b=true&c=3"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/v1",
        "https://api.acme.example.evil.example/",
        "https://api.acme.example@evil.example/",
        "http://api.acme.example/",
        "https://api.acme.example:8443/",
        "https://a.b.files.acme.example/",
        "//evil.example/",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1\\..\\admin",
        "/v1#x",
        "/v1%0d%0aX: y",
        "v1",
    ],
)
async def test_no_call_leaves_for_elsewhere(http: httpx.AsyncClient, url: str) -> None:
    with respx.mock(assert_all_called=False) as router:
        route = router.route().respond(json={})
        with pytest.raises((PermissionDenied, InvalidInput)):
            await api(http).get(url)
        assert not route.called


async def test_permissions_are_judged_before_the_call(http: httpx.AsyncClient) -> None:
    rules = (Rule(methods=("GET",), path="/mail/*", scope="email:read"),)
    allowed = AgentPermissions(scopes=frozenset({"email:read"}))
    with respx.mock:
        respx.get(f"{BASE}/mail/1").respond(json={})
        client = api(http, facts={"rules": rules}, permissions=allowed)
        await client.get("/mail/1")
        with pytest.raises(PermissionDenied, match="api:outbound"):
            await client.post("/mail/1")
        assert respx.calls.call_count == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (httpx.Response(400, json={"error": {"message": "no"}}), ProviderRejected),
        (httpx.Response(401, json={}), ReauthorizationRequired),
        (httpx.Response(403, json={"message": "no"}), ProviderRejected),
        (httpx.Response(408), ProviderUnavailable),
        (httpx.Response(500, text="<html>"), ProviderUnavailable),
        (httpx.Response(302, headers={"location": "https://evil.example"}), ProviderRejected),
    ],
)
async def test_errors_are_ours(
    http: httpx.AsyncClient, reply: httpx.Response, error: type[AuraError]
) -> None:
    waits = Waits()
    with respx.mock:
        route = respx.get(f"{BASE}/v1").mock(return_value=reply)
        with pytest.raises(error):
            await api(http, waits).get("/v1")
        assert route.call_count == 1
    assert waits.seconds == []


async def test_the_providers_words_come_without_the_credential(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="aura_core")
    words = {"error": {"message": f"bad token {TOKEN}\x00", "code": "invalid"}}
    with respx.mock:
        respx.get(f"{BASE}/v1").respond(400, json=words)
        with pytest.raises(ProviderRejected, match=r"bad token \*\*\*") as caught:
            await api(http).get("/v1")
    assert caught.value.code == "invalid"
    assert caught.value.status == 400
    assert TOKEN not in caplog.text


async def test_an_answer_that_repeats_the_credential_is_withheld(http: httpx.AsyncClient) -> None:
    for reply in (
        httpx.Response(200, json={"headers": {"Authorization": f"Bearer {TOKEN}"}}),
        httpx.Response(200, headers={"x-echo": TOKEN}),
    ):
        with respx.mock:
            respx.get(f"{BASE}/echo").mock(return_value=reply)
            with pytest.raises(PermissionDenied) as caught:
                await api(http).get("/echo")
        assert caught.value.rule == "reflected"


@pytest.mark.parametrize(
    ("facts", "reply", "wait"),
    [
        ({}, httpx.Response(429, headers={"retry-after": "3"}), 3),
        ({}, httpx.Response(429, headers={"retry-after": "Sun, 01 Mar 2026 12:00:04 GMT"}), 4),
        ({}, httpx.Response(429), 1),
        ({"retry_after_header": "X-Wait"}, httpx.Response(429, headers={"x-wait": "2"}), 2),
        (
            {"reset_header": "X-Reset"},
            httpx.Response(429, headers={"x-reset": str(int(NOW.timestamp()) + 5)}),
            5,
        ),
        (
            {"reset_header": "X-Reset", "reset_kind": "epoch_milliseconds"},
            httpx.Response(429, headers={"x-reset": str(int(NOW.timestamp() * 1000) + 5000)}),
            5,
        ),
        (
            {"reset_header": "X-Reset", "reset_kind": "delta_seconds"},
            httpx.Response(429, headers={"x-reset": "5"}),
            5,
        ),
        (
            {"reset_header": "X-Reset", "reset_kind": "iso8601"},
            httpx.Response(429, headers={"x-reset": "2026-03-01T12:00:05Z"}),
            5,
        ),
        (
            {"hint_path": "error.message"},
            httpx.Response(429, json={"error": {"message": "try again in 2.5 seconds"}}),
            2.5,
        ),
        (
            {"statuses": (403,), "code_path": "code", "codes": ("REQUEST_LIMIT_EXCEEDED",)},
            httpx.Response(403, json={"code": "REQUEST_LIMIT_EXCEEDED"}),
            1,
        ),
        (
            {"statuses": (403, 429), "remaining_header": "X-Remaining"},
            httpx.Response(403, headers={"x-remaining": "0", "retry-after": "2"}),
            2,
        ),
    ],
)
async def test_rate_limits_are_waited_for(
    http: httpx.AsyncClient, facts: dict[str, Any], reply: httpx.Response, wait: float
) -> None:
    waits = Waits()
    with respx.mock:
        respx.get(f"{BASE}/v1").mock(side_effect=[reply, httpx.Response(200, json={"ok": 1})])
        client = api(http, waits, facts={"rate_limit": RateLimit(**facts)})
        assert await client.get("/v1") == {"ok": 1}
    (waited,) = waits.seconds
    assert wait <= waited <= wait + 0.25


async def test_patience_is_bounded(http: httpx.AsyncClient) -> None:
    waits = Waits()
    with respx.mock:
        route = respx.get(f"{BASE}/v1").respond(429, headers={"retry-after": "3600"})
        with pytest.raises(RateLimited) as caught:
            await api(http, waits).get("/v1")
        assert caught.value.retry_after == 3600
        assert (route.call_count, waits.seconds) == (1, [])
        route.respond(429, headers={"retry-after": "1"})
        with pytest.raises(RateLimited):
            await api(http, waits).get("/v1")
        assert (route.call_count, len(waits.seconds)) == (4, 2)


@pytest.mark.parametrize(("kind", "least"), [("exponential", [1, 2]), ("constant", [1, 1])])
async def test_backoff(http: httpx.AsyncClient, kind: str, least: list[float]) -> None:
    waits = Waits()
    with respx.mock:
        respx.get(f"{BASE}/v1").respond(429)
        with pytest.raises(RateLimited):
            await api(http, waits, facts={"rate_limit": RateLimit(backoff=kind)}).get("/v1")  # type: ignore[arg-type]
    assert all(low <= got <= low + 0.25 for low, got in zip(least, waits.seconds, strict=True))


async def test_a_403_without_evidence_is_no_rate_limit(http: httpx.AsyncClient) -> None:
    facts = RateLimit(statuses=(403, 429), remaining_header="X-Remaining")
    with respx.mock:
        respx.get(f"{BASE}/v1").respond(403, headers={"x-remaining": "17"})
        with pytest.raises(ProviderRejected):
            await api(http, facts={"rate_limit": facts}).get("/v1")


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
