"""Quirks of authorization requests, token requests and their answers."""

from __future__ import annotations

import json

import httpx

from tests.core.lives import PUBLIC, TOKENS, Provider
from tests.core.providers import CLIENT_SECRET, NOW
from tests.core.quirks import (
    BASIC,
    SHOP,
    Quirk,
    authorize,
    expires_in,
    form_sent,
    response,
    token,
)

__all__ = ["AUTHORIZATION", "RESPONSE", "TOKEN"]

AUTHORIZATION = {
    "URL template": Quirk(
        provider=Provider(
            facts={"authorization_url": "https://{shop}.acme.example/authorize"},
            tables=SHOP,
            variables={"shop": "mine"},
        ),
        shows=lambda life: life.authorize.startswith("https://mine.acme.example/authorize?"),
    ),
    "fragment": Quirk(
        provider=authorize('fragment = "/oauth"'),
        shows=lambda life: "#/oauth?response_type=code" in life.authorize,
    ),
    "fixed extra parameters": Quirk(
        provider=authorize('params = { access_type = "offline" }'),
        shows=lambda life: life.asked["access_type"] == "offline",
    ),
    "parameter renamed": Quirk(
        provider=authorize('renames = { client_id = "client_key" }'),
        shows=lambda life: life.asked["client_key"] == "client-1" and "client_id" not in life.asked,
    ),
    "parameter dropped": Quirk(
        provider=authorize('renames = { response_type = "" }'),
        shows=lambda life: "response_type" not in life.asked,
    ),
    "scope separator": Quirk(
        provider=authorize('scope_delimiter = ","'),
        shows=lambda life: life.asked["scope"] == "read,write",
    ),
    "user-scope parameter": Quirk(
        provider=authorize('user_scope_param = "user_scope"\nuser_scopes = ["me"]'),
        shows=lambda life: life.asked["user_scope"] == "me",
    ),
    "scopes that are always sent": Quirk(
        provider=authorize('default_scopes = ["base"]'),
        shows=lambda life: life.asked["scope"] == "base read write",
    ),
    "scope for a refresh token": Quirk(
        provider=authorize('offline_scope = "offline_access"'),
        shows=lambda life: life.asked["scope"].endswith(" offline_access"),
    ),
    "PKCE required": Quirk(
        as_the_rfc_says=True,
        provider=authorize('pkce = "required"'),
        shows=lambda life: form_sent(life, "exchange", code_verifier="v" * 64),
    ),
    "PKCE omitted": Quirk(
        provider=authorize('pkce = "omit"'),
        shows=lambda life: (
            "code_challenge" not in life.asked and "code_verifier" not in life.params("exchange")
        ),
    ),
    "challenge method": Quirk(
        provider=authorize('pkce_method = "plain"'),
        shows=lambda life: life.asked["code_challenge"] == "v" * 64,
    ),
}

TOKEN = {
    "URL template": Quirk(
        provider=Provider(
            facts={"token_url": "https://{shop}.acme.example/token"},
            tables=SHOP,
            variables={"shop": "mine"},
        ),
        shows=lambda life: (
            {life.request(s).url.host for s in ("exchange", "refresh")} == {"mine.acme.example"}
        ),
    ),
    "GET": Quirk(
        provider=token('method = "GET"\nbody = "query"'),
        shows=lambda life: (
            life.request("exchange").method == "GET"
            and life.request("exchange").url.params["code"] == "co-de"
        ),
    ),
    "body in JSON": Quirk(
        provider=token('body = "json"'),
        shows=lambda life: json.loads(life.request("exchange").content)["code"] == "co-de",
    ),
    "parameters in the query": Quirk(
        provider=token('body = "query"'),
        shows=lambda life: (
            life.request("exchange").method == "POST"
            and life.request("exchange").url.params["code"] == "co-de"
        ),
    ),
    "client by HTTP Basic": Quirk(
        provider=token('auth = "client_secret_basic"'),
        shows=lambda life: life.request("exchange").headers["authorization"] == BASIC,
    ),
    "client in the body": Quirk(
        as_the_rfc_says=True,
        provider=token('auth = "client_secret_post"'),
        shows=lambda life: form_sent(life, "exchange", client_secret=CLIENT_SECRET),
    ),
    "public client": Quirk(
        provider=token('auth = "none"', client=PUBLIC),
        shows=lambda life: form_sent(life, "exchange", client_id="client-1"),
    ),
    "extra parameters": Quirk(
        provider=token('params = { type = "web" }'),
        shows=lambda life: form_sent(life, "exchange", type="web"),
    ),
    "extra headers": Quirk(
        provider=token('headers = { X-Version = "2" }'),
        shows=lambda life: life.request("exchange").headers["x-version"] == "2",
    ),
    "parameter renamed": Quirk(
        provider=token('renames = { code = "auth_code" }'),
        shows=lambda life: form_sent(life, "exchange", auth_code="co-de"),
    ),
    "Accept header": Quirk(
        provider=token('accept = "*/*"'),
        shows=lambda life: life.request("exchange").headers["accept"] == "*/*",
    ),
    "success status": Quirk(
        provider=response("success_statuses = [201]", httpx.Response(201, json=TOKENS)),
        shows=lambda life: life.connected is not None,
    ),
    "error in a success": Quirk(
        provider=Provider(
            verify='[auth.verify]\nurl = "https://api.acme.example/me"\n'
            'error = { path = "ok", ok = true, code_path = "error" }\n',
            answers={"verify": {"ok": False, "error": "gone"}},
        ),
        shows=lambda life: life.validation is not None and not life.validation.valid,
    ),
}

RESPONSE = {
    "paths": Quirk(
        provider=response(
            'access_token_path = "d.a"\nrefresh_token_path = "d.r[0]"\nexpires_path = "d.e"\n'
            'scope_path = "d.s"',
            {"d": {"a": "at-1", "r": ["rt-1"], "e": 60, "s": "read"}},
        ),
        shows=lambda life: (
            expires_in(life, 60)
            and life.connected is not None
            and life.connected.scopes == ("read",)
        ),
    ),
    **{
        f"expiry in {kind}": Quirk(
            as_the_rfc_says=kind == "seconds",
            provider=response(f'expires_kind = "{kind}"', {**TOKENS, "expires_in": said}),
            shows=lambda life: expires_in(life, 60),
        )
        for kind, said in (
            ("seconds", 60),
            ("milliseconds", 60_000),
            ("epoch_seconds", NOW.timestamp() + 60),
            ("epoch_milliseconds", NOW.timestamp() * 1000 + 60_000),
            ("iso8601", "2026-03-01T12:01:00Z"),
        )
    },
    "assumed lifetime": Quirk(
        provider=response("assumed_lifetime = 7200", {"access_token": "a", "refresh_token": "r"}),
        shows=lambda life: expires_in(life, 7200),
    ),
    "second token container": Quirk(
        provider=response('alternate_container = "authed_user"', {"authed_user": TOKENS}),
        shows=lambda life: expires_in(life, 3600),
    ),
    "captured metadata": Quirk(
        provider=response('metadata = { team = "team.id" }', {**TOKENS, "team": {"id": "T1"}}),
        shows=lambda life: life.connected is not None and life.connected.metadata == {"team": "T1"},
    ),
    "form-encoded fallback": Quirk(
        provider=response(
            'format = "auto"', httpx.Response(200, text="access_token=a&expires_in=60")
        ),
        shows=lambda life: expires_in(life, 60),
    ),
}
