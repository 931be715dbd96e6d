"""Every deviation of the authorization request that a manifest can declare, acted on."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from aura_core import oauth
from aura_core.errors import ConfigurationError
from tests.core.providers import (
    BACK,
    context,
    declared,
    oauth_manifest,
    query,
)


@dataclass(frozen=True, kw_only=True)
class Authorize:
    """A deviation of the authorization request and what the URL must then hold."""

    manifest: dict[str, str]
    has: dict[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    begins: str = "https://login.acme.example/authorize?"


AUTHORIZE = {
    "as the RFC says": Authorize(
        manifest={},
        has={
            "response_type": "code",
            "client_id": "client-1",
            "redirect_uri": BACK,
            "scope": "read write",
            "state": "st",
            "code_challenge": create_s256_code_challenge("v" * 64),
            "code_challenge_method": "S256",
        },
    ),
    "templated URL": Authorize(
        manifest={
            "authorization_url": "https://{shop}.acme.example/authorize",
            "tables": declared("shop"),
        },
        variables={"shop": "mine"},
        begins="https://mine.acme.example/authorize?",
    ),
    "fixed extra parameters": Authorize(
        manifest={"authorization": 'params = { access_type = "offline", audience = "{shop}" }',
                  "tables": declared("shop")},
        variables={"shop": "mine"},
        has={"access_type": "offline", "audience": "mine"},
    ),
    "renamed and dropped parameters": Authorize(
        manifest={"authorization": 'renames = { client_id = "client_key", response_type = "" }'},
        has={"client_key": "client-1"},
        lacks=("client_id", "response_type"),
    ),
    "an alias for the redirect URI": Authorize(
        manifest={"authorization": 'params = { redirect_uri = "RuName" }'},
        has={"redirect_uri": "RuName"},
    ),
    "scopes with commas": Authorize(
        manifest={"authorization": 'scope_delimiter = ","'}, has={"scope": "read,write"}
    ),
    "scopes with plus signs": Authorize(
        manifest={"authorization": 'scope_delimiter = "+"'}, has={"scope": "read write"}
    ),
    "another scope parameter": Authorize(
        manifest={"authorization": 'scope_param = "permissions"'},
        has={"permissions": "read write"},
        lacks=("scope",),
    ),
    "scopes of the user's own token": Authorize(
        manifest={
            "authorization": 'user_scope_param = "user_scope"\nuser_scopes = ["me:read"]'
        },
        has={"scope": "read write", "user_scope": "me:read"},
    ),
    "scopes that are always sent": Authorize(
        manifest={"authorization": 'default_scopes = ["base", "read"]'},
        has={"scope": "base read write"},
    ),
    "a scope for the refresh token": Authorize(
        manifest={"authorization": 'offline_scope = "offline_access"'},
        has={"scope": "read write offline_access"},
    ),
    "PKCE left out": Authorize(
        manifest={"authorization": 'pkce = "omit"'},
        lacks=("code_challenge", "code_challenge_method"),
    ),
    "a plain challenge": Authorize(
        manifest={"authorization": 'pkce_method = "plain"'},
        has={"code_challenge": "v" * 64, "code_challenge_method": "plain"},
    ),
    "another environment": Authorize(
        manifest={
            "tables": declared("environment", 'choices = ["sandbox"]\nrequired = false')
            + '[[environments]]\nid = "sandbox"\nlabel = "Sandbox"\n'
            'replaces = { "https://login.acme.example" = "https://sandbox.acme.example" }'
        },
        variables={"environment": "sandbox"},
        begins="https://sandbox.acme.example/authorize?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AUTHORIZE.values(), ids=AUTHORIZE.keys())
async def test_authorization_request(case: Authorize) -> None:
    async with context(oauth_manifest(**case.manifest), variables=case.variables) as ctx:
        url = oauth.authorization_url(ctx, redirect_uri=BACK, state="st", verifier="v" * 64)
    assert url.startswith(case.begins)
    sent = query(url)
    assert case.has.items() <= sent.items()
    assert not set(case.lacks) & set(sent)


@pytest.mark.parametrize(
    ("fragment", "tail"),
    [("wechat_redirect", "#wechat_redirect"), ("/oauth/authorize", "#/oauth/authorize?")],
)
async def test_a_fragment_stands_behind_or_carries_the_query(fragment: str, tail: str) -> None:
    manifest = oauth_manifest(authorization=f'fragment = "{fragment}"')
    async with context(manifest) as ctx:
        url = oauth.authorization_url(ctx, redirect_uri=BACK, state="st", verifier="v" * 64)
    assert tail in url
    parts = urlsplit(url)
    assert "state=st" in (parts.fragment if fragment.startswith("/") else parts.query)


async def test_scopes_may_be_asked_for_one_by_one() -> None:
    async with context(oauth_manifest()) as ctx:
        url = oauth.authorization_url(
            ctx, redirect_uri=BACK, state="st", verifier="v" * 64, scopes=["read"]
        )
    assert query(url)["scope"] == "read"


def test_verifiers_are_fresh_and_long_enough() -> None:
    first, second = oauth.new_verifier(), oauth.new_verifier()
    assert first != second
    assert 43 <= len(first) <= 128


async def test_without_a_client_or_a_verifier_there_is_no_url() -> None:
    manifest = oauth_manifest()
    async with context(manifest) as ctx:
        with pytest.raises(ConfigurationError, match="PKCE"):
            oauth.authorization_url(ctx, redirect_uri=BACK, state="st", verifier=None)
        object.__setattr__(ctx, "client", None)
        with pytest.raises(ConfigurationError, match="ACME_CLIENT_ID"):
            oauth.authorization_url(ctx, redirect_uri=BACK, state="st", verifier="v" * 64)


async def test_a_code_that_comes_by_webhook_is_not_waited_for() -> None:
    async with context(oauth_manifest(authorization="code_by_webhook = true")) as ctx:
        with pytest.raises(ConfigurationError, match="webhook"):
            oauth.authorization_url(ctx, redirect_uri=BACK, state="st", verifier="v" * 64)
