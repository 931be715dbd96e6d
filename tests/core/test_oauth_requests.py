"""Every deviation of token requests that a manifest can declare, acted on."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import respx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import OAuthClientSettings
from aura_core.errors import ConfigurationError, InvalidInput
from tests.core.providers import (
    BACK,
    CLIENT_SECRET,
    NOW,
    TOKEN_URL,
    context,
    declared,
    envelope,
    form,
    oauth_manifest,
    query,
    secrets,
)

BASIC = "Basic " + base64.b64encode(f"client-1:{CLIENT_SECRET}".encode()).decode()
GRANTED = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}


@dataclass(frozen=True, kw_only=True)
class Token:
    """A deviation of the token request and what must then be sent."""

    manifest: dict[str, str]
    method: str = "POST"
    url: str = TOKEN_URL
    place: str = "form"
    has: dict[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    headers: dict[str, str | None] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    callback: dict[str, str] = field(default_factory=dict)


TOKEN = {
    "as the RFC says": Token(
        manifest={},
        has={
            "grant_type": "authorization_code",
            "code": "co-de",
            "redirect_uri": BACK,
            "code_verifier": "v" * 64,
            "client_id": "client-1",
            "client_secret": CLIENT_SECRET,
        },
        headers={"accept": "application/json", "authorization": None},
    ),
    "HTTP Basic": Token(
        manifest={"token": 'auth = "client_secret_basic"'},
        has={"code": "co-de"},
        lacks=("client_secret",),
        headers={"authorization": BASIC},
    ),
    "a public client": Token(
        manifest={"token": 'auth = "none"'},
        has={"client_id": "client-1"},
        lacks=("client_secret",),
        headers={"authorization": None},
    ),
    "a JSON body": Token(
        manifest={"token": 'body = "json"'},
        place="json",
        has={"code": "co-de", "client_secret": CLIENT_SECRET},
        headers={"content-type": "application/json"},
    ),
    "parameters in the query": Token(
        manifest={"token": 'body = "query"'}, place="query", has={"code": "co-de"}
    ),
    "a GET call": Token(
        manifest={"token": 'method = "GET"\nbody = "query"'},
        method="GET",
        place="query",
        has={"code": "co-de", "client_id": "client-1"},
    ),
    "extra headers": Token(
        manifest={"token": 'headers = { User-Agent = "{user_agent}", X-Version = "2" }'},
        headers={"x-version": "2"},
    ),
    "another Accept header": Token(manifest={"token": 'accept = "*/*"'}, headers={"accept": "*/*"}),
    "extra parameters": Token(
        manifest={"token": 'params = { type = "web_server" }'}, has={"type": "web_server"}
    ),
    "renamed and dropped parameters": Token(
        manifest={
            "token": 'renames = { client_id = "app_id", code = "auth_code", grant_type = "" }'
        },
        has={"app_id": "client-1", "auth_code": "co-de"},
        lacks=("client_id", "code", "grant_type"),
    ),
    "another grant type": Token(
        manifest={"token": 'grant_type = "login"'}, has={"grant_type": "login"}
    ),
    "no PKCE": Token(manifest={"authorization": 'pkce = "omit"'}, lacks=("code_verifier",)),
    "a templated URL": Token(
        manifest={"token_url": "https://{shop}.acme.example/token", "tables": declared("shop")},
        variables={"shop": "mine"},
        url="https://mine.acme.example/token",
    ),
    "a host from the callback": Token(
        manifest={
            "token_url": "{accounts_server}/token",
            "authorization": 'callback_metadata = ["accounts-server"]',
            "hosts": '["api.acme.example", "accounts.acme.eu"]',
            "tables": declared("accounts_server", 'provided_by = "callback"\nurl = true'),
        },
        callback={"accounts-server": "https://accounts.acme.eu"},
        url="https://accounts.acme.eu/token",
    ),
}


@pytest.mark.parametrize("case", TOKEN.values(), ids=TOKEN.keys())
async def test_token_request(case: Token, respx_mock: respx.MockRouter) -> None:
    route = respx_mock.route(method=case.method, url__startswith=case.url).respond(json=GRANTED)
    async with context(oauth_manifest(**case.manifest), variables=case.variables) as ctx:
        answer = await oauth.exchange_code(
            ctx,
            code="co-de",
            redirect_uri=BACK,
            verifier="v" * 64,
            callback_params={"code": "co-de", "state": "st", **case.callback},
        )
    assert answer.access_token.get_secret_value() == "at-1"
    request = route.calls.last.request
    sent = _sent(request, case.place)
    assert case.has.items() <= sent.items()
    assert not set(case.lacks) & set(sent)
    for name, value in case.headers.items():
        assert request.headers.get(name) == value


def _sent(request: httpx.Request, place: str) -> dict[str, Any]:
    if place == "query":
        assert request.content == b""
        return dict(query(request.url))
    assert query(request.url) == {}
    if place == "json":
        found: dict[str, Any] = json.loads(request.content)
        return found
    return dict(form(request))


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256"])
async def test_private_key_jwt(algorithm: str, respx_mock: respx.MockRouter) -> None:
    private = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES256"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    manifest = oauth_manifest(
        token=f'auth = "private_key_jwt"\nassertion_algorithm = "{algorithm}"'
    )
    client = OAuthClientSettings(client_id="client-1", client_secret=SecretStr(pem))
    route = respx_mock.post(TOKEN_URL).respond(json=GRANTED)
    async with context(manifest, client=client) as ctx:
        await oauth.exchange_code(ctx, code="c", redirect_uri=BACK, verifier="v" * 64)
    sent = form(route.calls.last.request)
    assert sent["client_assertion_type"].endswith("jwt-bearer")
    assert "client_secret" not in sent
    key = (ECKey if algorithm == "ES256" else RSAKey).import_key(pem)
    claims = jwt.decode(sent["client_assertion"], key, algorithms=[algorithm]).claims
    assert claims["iss"] == claims["sub"] == "client-1"
    assert claims["aud"] == TOKEN_URL
    assert claims["exp"] - NOW.timestamp() == 300


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ('auth = "private_key_jwt"\nassertion_algorithm = "RS256"', "must be a private key"),
        ('auth = "custom"', "needs an adapter"),
        ("mtls = true", "TLS client certificate"),
    ],
)
async def test_what_aura_cannot_do_is_said(token: str, words: str) -> None:
    async with context(oauth_manifest(token=token)) as ctx:
        with pytest.raises(ConfigurationError, match=words) as caught:
            await oauth.exchange_code(ctx, code="c", redirect_uri=BACK, verifier="v" * 64)
    assert CLIENT_SECRET not in repr(caught.getrepr(style="long"))


REFRESH = {
    "as the RFC says": Token(
        manifest={}, has={"grant_type": "refresh_token", "refresh_token": "rt-1"}
    ),
    "a URL of its own": Token(
        manifest={"refresh": 'url = "https://login.acme.example/refresh"'},
        url="https://login.acme.example/refresh",
    ),
    "a method of its own": Token(
        manifest={"refresh": 'method = "GET"'},
        method="GET",
        place="query",
        has={"refresh_token": "rt-1"},
    ),
    "other parameters": Token(
        manifest={"refresh": 'params = { type = "refresh" }\ndrop_params = ["grant_type"]'},
        has={"type": "refresh"},
        lacks=("grant_type",),
    ),
    "the old access token too": Token(
        manifest={"refresh": 'sends_access_token = "old_token"'}, has={"old_token": "at-0"}
    ),
    "the access token traded": Token(
        manifest={
            "refresh": 'mode = "exchange"\ntoken_param = "fb_exchange_token"\n'
            'params = { grant_type = "fb_exchange_token" }'
        },
        has={"grant_type": "fb_exchange_token", "fb_exchange_token": "at-0"},
        lacks=("refresh_token",),
    ),
    "the access token traded by GET": Token(
        manifest={
            "refresh": 'mode = "exchange"\ntoken_param = "access_token"\nmethod = "GET"\n'
            'url = "https://graph.acme.example/refresh"\n'
            'params = { grant_type = "ig_refresh_token" }\n'
            'drop_params = ["client_id", "client_secret"]'
        },
        method="GET",
        url="https://graph.acme.example/refresh",
        place="query",
        has={"grant_type": "ig_refresh_token", "access_token": "at-0"},
        lacks=("client_id", "client_secret"),
    ),
}


@pytest.mark.parametrize("case", REFRESH.values(), ids=REFRESH.keys())
async def test_refresh_request(case: Token, respx_mock: respx.MockRouter) -> None:
    route = respx_mock.route(method=case.method, url__startswith=case.url).respond(json=GRANTED)
    async with context(oauth_manifest(**case.manifest)) as ctx:
        answer = await oauth.refresh(ctx, envelope(access_token="at-0", refresh_token="rt-1"))
    assert answer.access_token.get_secret_value() == "at-1"
    assert answer.refresh_token is None
    assert route.call_count == 1
    sent = _sent(route.calls.last.request, case.place)
    assert case.has.items() <= sent.items()
    assert not set(case.lacks) & set(sent)


@pytest.mark.parametrize(
    ("facts", "params", "refused"),
    [
        ('issuer = "https://acme.example"', {"iss": "https://evil.example"}, True),
        ('issuer = "https://acme.example"', {"iss": "https://acme.example/"}, True),
        ('issuer = "https://acme.example"', {"iss": "https://acme.example"}, False),
        ('issuer = "https://acme.example"', {}, False),
        ('issuer = "https://acme.example"\niss_required = true', {}, True),
        ("", {"iss": "https://anything.example"}, False),
    ],
)
@pytest.mark.respx(assert_all_called=False)
async def test_the_issuer_is_checked_before_anything_is_sent(
    facts: str, params: dict[str, str], refused: bool, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.post(TOKEN_URL).respond(json=GRANTED)
    async with context(oauth_manifest(authorization=facts)) as ctx:
        exchange = oauth.exchange_code(
            ctx, code="c", redirect_uri=BACK, verifier="v" * 64, callback_params=params
        )
        if refused:
            with pytest.raises(InvalidInput, match="does not come from Acme"):
                await exchange
        else:
            await exchange
    assert route.called is not refused


@pytest.mark.parametrize(
    "value",
    ["https://evil.example", "http://accounts.acme.eu", "https://accounts.acme.eu@evil.example",
     "https://accounts.acme.eu/x", "https://accounts.acme.eu#", "https://127.0.0.1", "x"],
)  # fmt: skip
async def test_a_callback_cannot_name_a_token_endpoint(value: str) -> None:
    case = TOKEN["a host from the callback"]
    async with context(oauth_manifest(**case.manifest)) as ctx:
        with pytest.raises(InvalidInput):
            await oauth.exchange_code(
                ctx,
                code="c",
                redirect_uri=BACK,
                verifier="v" * 64,
                callback_params={"accounts-server": value},
            )


async def test_a_variable_without_a_value_is_named() -> None:
    case = TOKEN["a templated URL"]
    async with context(oauth_manifest(**case.manifest)) as ctx:
        with pytest.raises(InvalidInput) as caught:
            await oauth.refresh(ctx, envelope(refresh_token="rt-1"))
    assert caught.value.fields == {"shop": "is required"}
    assert secrets(a="b")["a"].get_secret_value() == "b"
