"""Quirks of renewing, of a connection's own values, of requests and of revocation."""

from __future__ import annotations

import base64
import json

import httpx

from tests.core.lives import PUBLIC, TOKENS, Provider
from tests.core.providers import CLIENT_SECRET, declared
from tests.core.quirks import (
    BASIC,
    SHOP,
    Quirk,
    form_sent,
    learned,
    placements,
    refresh,
    revocation,
)

__all__ = ["CONNECTION", "REFRESH", "REQUEST", "REVOCATION"]

REFRESH = {
    "URL": Quirk(
        provider=refresh('url = "https://login.acme.example/renew"'),
        shows=lambda life: life.request("refresh").url.path == "/renew",
    ),
    "parameters": Quirk(
        provider=refresh('params = { type = "refresh" }\ndrop_params = ["grant_type"]'),
        shows=lambda life: (
            form_sent(life, "refresh", type="refresh")
            and "grant_type" not in life.params("refresh")
        ),
    ),
    "method": Quirk(
        provider=refresh('method = "GET"'),
        shows=lambda life: life.request("refresh").method == "GET",
    ),
    "rotating": Quirk(
        as_the_rfc_says=True,
        provider=refresh(
            'rotation = "single_use"', answers={"refresh": {**TOKENS, "refresh_token": "rt-2"}}
        ),
        shows=lambda life: (
            life.renewed is not None
            and life.renewed.refresh_token is not None
            and life.renewed.refresh_token.get_secret_value() == "rt-2"
        ),
    ),
    "reusable: the answer may omit it": Quirk(
        as_the_rfc_says=True,
        provider=refresh('rotation = "none"', answers={"refresh": {"access_token": "at-2"}}),
        shows=lambda life: life.renewed is not None and life.renewed.refresh_token is None,
    ),
    "none": Quirk(
        provider=refresh('mode = "none"'),
        shows=lambda life: life.renewed is None and "refresh" not in life.sent,
    ),
    "the access token exchanged": Quirk(
        provider=refresh('mode = "exchange"\ntoken_param = "access_token"'),
        shows=lambda life: form_sent(life, "refresh", access_token="at-1"),
    ),
    "the access token beside it": Quirk(
        provider=refresh('sends_access_token = "old"'),
        shows=lambda life: form_sent(life, "refresh", old="at-1", refresh_token="rt-1"),
    ),
}

CONNECTION = {
    "variable of the user's": Quirk(
        provider=Provider(
            facts={"api": 'headers = { X-Shop = "{shop}" }'},
            tables=SHOP,
            variables={"shop": "mine"},
        ),
        shows=lambda life: life.request("verify").headers["x-shop"] == "mine",
    ),
    "variable of the callback's": Quirk(
        provider=Provider(
            facts={"authorization": 'callback_metadata = ["realmId"]'},
            tables=declared("realm_id", 'provided_by = "callback"'),
            callback={"realmId": "r1"},
        ),
        shows=lambda life: learned(life) == {"realm_id": "r1"},
    ),
    "variable of the token response's": Quirk(
        provider=Provider(
            facts={
                "base_url": "{instance_url}/v1",
                "hosts": '["api.acme.example", "*.my.acme.example"]',
            },
            tables=declared("instance_url", 'provided_by = "token_response"\nurl = true')
            + '[auth.token.response]\nmetadata = { instance_url = "instance_url" }\n',
            verify='[auth.verify]\nurl = "{instance_url}/v1/me"\n',
            answers={"exchange": {**TOKENS, "instance_url": "https://eu1.my.acme.example"}},
        ),
        shows=lambda life: life.request("verify").url.host == "eu1.my.acme.example",
    ),
    "variable of a follow-up call's": Quirk(
        provider=Provider(
            tables=declared("cloud", 'provided_by = "discovery"')
            + '[[auth.discover]]\nurl = "https://api.acme.example/clouds"\n'
            'metadata = { cloud = "[0].id" }\n',
            answers={"discover": httpx.Response(200, json=[{"id": "c1"}])},
        ),
        shows=lambda life: learned(life) == {"cloud": "c1"},
    ),
    "environment or region": Quirk(
        provider=Provider(
            tables=declared("environment", 'choices = ["eu"]\nrequired = false')
            + '[[environments]]\nid = "eu"\nlabel = "Europe"\nhosts = ["api.acme.eu"]\n'
            'replaces = { "https://api.acme.example" = "https://api.acme.eu", '
            '"https://login.acme.example" = "https://login.acme.eu" }\n',
            variables={"environment": "eu"},
        ),
        shows=lambda life: (
            {life.request(s).url.host for s in life.sent} == {"api.acme.eu", "login.acme.eu"}
        ),
    ),
}

REQUEST = {
    "header": Quirk(
        provider=placements('{ at = "header", name = "X-Token", format = "T {access_token}" }'),
        shows=lambda life: life.request("verify").headers["x-token"] == "T at-1",
    ),
    "query": Quirk(
        provider=placements('{ at = "query", name = "auth" }'),
        shows=lambda life: life.request("verify").url.params["auth"] == "at-1",
    ),
    "path": Quirk(
        provider=placements('{ at = "path", name = "token", format = "bot{access_token}" }'),
        shows=lambda life: life.request("verify").url.path == "/botat-1/me",
    ),
    "basic": Quirk(
        provider=placements('{ at = "basic", username = "x", password = "{access_token}" }'),
        shows=lambda life: (
            life.request("verify").headers["authorization"]
            == "Basic " + base64.b64encode(b"x:at-1").decode()
        ),
    ),
    "body": Quirk(
        provider=placements(
            '{ at = "body", name = "key" }',
            verify='[auth.verify]\nurl = "https://api.acme.example/me"\nmethod = "POST"\n',
        ),
        shows=lambda life: json.loads(life.request("verify").content) == {"key": "at-1"},
    ),
    "several, with the operator's client": Quirk(
        provider=placements(
            '{ at = "header", name = "Authorization", format = "Bearer {access_token}" }, '
            '{ at = "header", name = "X-Api-Key", format = "{client_id}:{client_secret}" }'
        ),
        shows=lambda life: (
            life.request("verify").headers["x-api-key"] == f"client-1:{CLIENT_SECRET}"
        ),
    ),
    "static and templated headers": Quirk(
        provider=Provider(facts={"api": 'headers = { X-Version = "2", X-Client = "{client_id}" }'}),
        shows=lambda life: (
            life.request("verify").headers["x-version"] == "2"
            and life.request("verify").headers["x-client"] == "client-1"
        ),
    ),
    "verification that is not a GET": Quirk(
        provider=Provider(
            verify='[auth.verify]\nurl = "https://api.acme.example/me"\nmethod = "POST"\n'
            'json_body = { query = "{ me }" }\n'
        ),
        shows=lambda life: json.loads(life.request("verify").content) == {"query": "{ me }"},
    ),
}

REVOCATION = {
    "none": Quirk(
        provider=Provider(revocation=""),
        shows=lambda life: {line.outcome for line in life.receipt} == {"not_offered"},
    ),
    "method and body": Quirk(
        provider=revocation('method = "DELETE"\nbody = "json"\ntoken_param = "access_token"'),
        shows=lambda life: (
            life.request("revoke").method == "DELETE"
            and form_sent(life, "revoke", access_token="rt-1")
        ),
    ),
    "authenticated by HTTP Basic": Quirk(
        provider=revocation('auth = "client_secret_basic"'),
        shows=lambda life: life.request("revoke").headers["authorization"] == BASIC,
    ),
    "authenticated by the token": Quirk(
        provider=revocation('auth = "bearer"'),
        shows=lambda life: life.request("revoke").headers["authorization"] == "Bearer at-1",
    ),
    "by a public client, who says who it is": Quirk(
        provider=revocation('auth = "none"', facts={"token": 'auth = "none"'}, client=PUBLIC),
        shows=lambda life: form_sent(life, "revoke", client_id="client-1", token="rt-1"),
    ),
    "by nobody: the token is enough": Quirk(
        provider=revocation('auth = "none"'),
        shows=lambda life: "client_id" not in life.params("revoke"),
    ),
}
