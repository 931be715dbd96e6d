"""Calls to providers: bound to hosts, in the agent's bounds, and silent about secrets."""

from __future__ import annotations

import base64
import logging

import httpx
import pytest
import respx

from aura_core.errors import (
    AuraError,
    InvalidInput,
    PermissionDenied,
    ProviderRejected,
    ProviderUnavailable,
    ReauthorizationRequired,
)
from aura_core.manifest import BEARER, Placement, Rule
from aura_core.permissions import AgentPermissions
from tests.core.bound import BASE, TOKEN, Waits, api

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
        with respx.mock:
            respx.get(f"{BASE}/echo").mock(return_value=reply)
            await api(http, facts={"public_fields": ("access_token",)}).get("/echo")


async def test_an_answer_may_name_the_account(http: httpx.AsyncClient) -> None:
    placement = Placement(at="basic", username="{account}", password="{key}")
    facts = {"placements": (placement,), "public_fields": ("account",)}
    fields = {"account": "AC0123456789", "key": TOKEN}
    with respx.mock:
        respx.get(f"{BASE}/calls").respond(json={"account": "AC0123456789"})
        calls = await api(http, facts=facts, fields=fields).get("/calls")
    assert calls == {"account": "AC0123456789"}
