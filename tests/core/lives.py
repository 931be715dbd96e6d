"""A connection's whole life against a provider that records what it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import (
    Connected,
    OAuthClientSettings,
    RevocationResult,
    TokenRefresh,
    Validation,
    default_adapter,
)
from aura_core.credentials import CredentialEnvelope
from tests.core.providers import BACK, CLIENT_SECRET, context, form, oauth_manifest, query

__all__ = ["CLIENT", "PUBLIC", "REVOCATION", "TOKENS", "VERIFY", "Life", "Provider", "live"]

CLIENT = OAuthClientSettings(client_id="client-1", client_secret=SecretStr(CLIENT_SECRET))
PUBLIC = OAuthClientSettings(client_id="client-1")

VERIFY = '[auth.verify]\nurl = "https://api.acme.example/me"\n'
REVOCATION = '[auth.revocation]\nurl = "https://login.acme.example/revoke"\n'
TOKENS = {"access_token": "at-1", "refresh_token": "rt-1", "expires_in": 3600}


@dataclass(frozen=True, kw_only=True)
class Provider:
    """What its manifest says beyond the RFCs, and what it then answers."""

    facts: Mapping[str, str] = field(default_factory=dict)
    verify: str = VERIFY
    revocation: str = REVOCATION
    tables: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    callback: Mapping[str, str] = field(default_factory=dict)
    client: OAuthClientSettings = CLIENT
    answers: Mapping[str, Any] = field(default_factory=dict)
    """A step's answer: an :class:`httpx.Response`, or its JSON document."""


@dataclass
class Life:
    """What was sent at each step, and what came of it."""

    authorize: str = ""
    sent: dict[str, list[httpx.Request]] = field(default_factory=dict)
    connected: Connected | None = None
    validation: Validation | None = None
    renewed: TokenRefresh | None = None
    receipt: tuple[RevocationResult, ...] = ()

    @property
    def asked(self) -> dict[str, str]:
        """The authorization request's parameters."""
        return query(self.authorize)

    def request(self, step: str) -> httpx.Request:
        return self.sent[step][0]

    def params(self, step: str) -> dict[str, str]:
        """The step's parameters, wherever they were put."""
        request = self.request(step)
        if request.headers.get("content-type") == "application/json":
            document: dict[str, str] = json.loads(request.content)
            return document
        return {**query(request.url), **form(request)}


async def live(provider: Provider) -> Life:
    """Authorize, exchange, verify, refresh and revoke, by the manifest alone."""
    life, step = Life(), ""

    def answer(request: httpx.Request) -> httpx.Response:
        seen = life.sent.setdefault(step, [])
        seen.append(request)
        said = provider.answers.get(step, TOKENS if step in ("exchange", "refresh") else {})
        if isinstance(said, list):
            said = said[len(seen) - 1]
        return said if isinstance(said, httpx.Response) else httpx.Response(200, json=said)

    tables = provider.tables + provider.verify + provider.revocation
    manifest = oauth_manifest(**provider.facts, tables=tables)
    adapter = default_adapter(manifest)
    async with context(
        manifest,
        transport=httpx.MockTransport(answer),
        variables=provider.variables,
        client=provider.client,
    ) as ctx:
        verifier = "v" * 64
        life.authorize = oauth.authorization_url(
            ctx, redirect_uri=BACK, state="st", verifier=verifier
        )
        step = "exchange"
        tokens = await oauth.exchange_code(
            ctx,
            code="co-de",
            redirect_uri=BACK,
            verifier=verifier,
            callback_params=provider.callback,
        )
        step = "discover"
        life.connected = await adapter.process_oauth_tokens(ctx, tokens)
        later = replace(ctx, variables=life.connected.variables)
        envelope = CredentialEnvelope(
            integration_id="c1",
            user_id="u1",
            provider=manifest.id,
            auth_id="oauth2",
            secrets=life.connected.secrets,
            variables=life.connected.variables,
        )
        step = "verify"
        life.validation = await adapter.validate_credentials(later, envelope)
        step = "refresh"
        life.renewed = await adapter.refresh_token(later, envelope)
        step = "revoke"
        life.receipt = await adapter.on_disconnect(later, envelope)
    return life
