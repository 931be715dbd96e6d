"""Ending a connection at the provider, and the receipt for it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import respx

from aura_core import oauth
from aura_core.adapter import (
    default_adapter,
)
from aura_core.errors import (
    ReauthorizationRequired,
)
from tests.core.providers import (
    context,
    envelope,
    form,
    oauth_manifest,
)

REVOCATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("", "POST", {"form": {"token": "rt-1", "token_type_hint": "refresh_token",
                           "client_id": "client-1"}}),
    ('auth = "client_secret_basic"\nhint_param = "kind"', "POST",
     {"form": {"token": "rt-1", "kind": "refresh_token"}, "header": "Basic "}),
    ('auth = "bearer"\nmethod = "GET"\nbody = "none"', "GET", {"header": "Bearer at-1"}),
    ('method = "DELETE"\nbody = "json"\nauth = "client_secret_basic"\n'
     'token_param = "access_token"', "DELETE", {"json": "access_token"}),
    ('body = "query"\nauth = "none"\nparams = { format = "json" }', "POST",
     {"query": {"token": "rt-1", "format": "json"}}),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "method", "expected"), REVOCATIONS)
async def test_revocation_requests(facts: str, method: str, expected: dict[str, Any]) -> None:
    text = f'[auth.revocation]\nurl = "https://login.acme.example/revoke"\n{facts}'
    declared = oauth_manifest(tables=text)
    with respx.mock:
        route = respx.route(
            method=method, url__startswith="https://login.acme.example/revoke"
        ).respond(200)
        async with context(declared) as ctx:
            receipt = await default_adapter(declared).on_disconnect(
                ctx, envelope(access_token="at-1", refresh_token="rt-1")
            )
    assert [line.outcome for line in receipt] == ["revoked", "revoked"]
    request: httpx.Request = route.calls[0].request
    if "form" in expected:
        assert expected["form"].items() <= form(request).items()
    if "header" in expected:
        assert request.headers["authorization"].startswith(expected["header"])
    if "json" in expected:
        assert json.loads(request.content)[expected["json"]] == "rt-1"
    if "query" in expected:
        assert expected["query"].items() <= dict(request.url.params).items()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (httpx.Response(200), "revoked"),
        (httpx.Response(200, json={"ok": False, "error": "token_revoked"}), "already_invalid"),
        (httpx.Response(400, json={"error": "invalid_token"}), "already_invalid"),
        (httpx.Response(200, json={"ok": False, "error": "fatal"}), "failed"),
        (httpx.Response(500, text="rt-1 x"), "failed"),
        (httpx.ConnectError("no"), "failed"),
    ],
)
async def test_a_receipt_says_what_happened(reply: Any, outcome: str) -> None:
    declared = oauth_manifest(
        tables='[auth.revocation]\nurl = "https://login.acme.example/revoke"\n'
        'revokes = ["refresh_token"]\n[auth.revocation.error]\npath = "error"\n'
    )
    with respx.mock:
        route = respx.post("https://login.acme.example/revoke")
        if isinstance(reply, Exception):
            route.mock(side_effect=reply)
        else:
            route.mock(return_value=reply)
        async with context(declared) as ctx:
            (line,) = await oauth.revoke(ctx, envelope(refresh_token="rt-1", access_token="a"))
    assert line.outcome == outcome
    assert "rt-1" not in line.detail


async def test_what_cannot_be_revoked_is_said() -> None:
    async with context(oauth_manifest()) as ctx:
        receipt = await oauth.revoke(ctx, envelope(access_token="at-1", refresh_token="rt-1"))
    assert {line.outcome for line in receipt} == {"not_offered"}
    assert {line.token for line in receipt} == {"access_token", "refresh_token"}


@pytest.mark.parametrize(
    ("refresh", "held"),
    [('mode = "none"', {"access_token": "a", "refresh_token": "r"}), ("", {"access_token": "a"})],
)
async def test_nothing_to_refresh_with(refresh: str, held: dict[str, str]) -> None:
    facts = oauth_manifest(refresh=refresh)
    async with context(facts) as ctx:
        assert await default_adapter(facts).refresh_token(ctx, envelope(**held)) is None
        with pytest.raises(ReauthorizationRequired):
            await oauth.refresh(ctx, envelope(**held))
