"""A provider's own twin on one side, an integration's real adapter on the other, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import Connected, Context, IntegrationAdapter, OAuthClientSettings
from aura_core.api import http_client
from aura_core.credentials import CredentialEnvelope
from aura_core.manifest import AuthMethod, Manifest, OAuth2Auth, Variable
from aura_core.testing.twin import Twin, TwinAccount, consent, create_twin

__all__ = ["BACK", "CLIENT", "Life", "connected_life", "value_for"]

BACK = "https://aura.example/api/integrations/callback"
CLIENT = OAuthClientSettings(
    client_id="catalogue-client", client_secret=SecretStr("catalogue-client-secret")
)
_ORIGIN = "http://127.0.0.1:9"


@dataclass(kw_only=True)
class Life:
    """One connection and the twin that it is with; ``now`` is both sides' clock."""

    manifest: Manifest
    adapter: IntegrationAdapter
    ctx: Context
    twin: Twin
    connected: Connected

    def envelope(self) -> CredentialEnvelope:
        """The connection as it would be stored."""
        return CredentialEnvelope(
            integration_id="c-1",
            user_id="u-1",
            provider=self.manifest.id,
            auth_id=self.ctx.method.id or self.ctx.method.strategy,
            secrets=self.connected.secrets,
            token_expiry=self.connected.token_expiry,
            scopes=self.connected.scopes,
            metadata=self.connected.metadata,
            variables=self.connected.variables,
        )

    def asked(self, endpoint: str) -> int:
        """How often the twin was asked at an endpoint, and agreed."""
        return sum(
            record.endpoint == endpoint and record.status < 400
            for record in self.twin.journal.records
        )


class _Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def value_for(variable: Variable, manifest: Manifest) -> str:
    """What a user may give for a variable."""
    if variable.default is not None:
        return variable.default
    if variable.choices:
        return variable.choices[0]
    if not variable.url:
        return "twin-1"
    host = next((h for h in manifest.hosts if "{" not in h), "twin.example.com")
    return "https://" + host.replace("*", "twin-1")


@asynccontextmanager
async def connected_life(
    manifest: Manifest, method: AuthMethod, adapter: IntegrationAdapter
) -> AsyncIterator[Life]:
    """Connect as a user would, by the method's declared flow."""
    clock = _Clock()
    name = method.id or method.strategy
    # Of two methods the twin would take the first one's endpoints for the other's too.
    alone = manifest.model_copy(update={"auth": (method,)})
    app = create_twin(
        alone, origin=_ORIGIN, client=CLIENT, redirect_uris=[BACK], clock=clock, examples=()
    )
    relocated = alone.relocated(_ORIGIN)
    async with http_client(transport=httpx.ASGITransport(app)) as http:
        ctx = Context(
            manifest=relocated,
            method=relocated.auth_method(name),
            http=http,
            now=clock,
            client=CLIENT,
            variables={
                v.name: value_for(v, manifest)
                for v in method.variables
                if v.provided_by == "user" and (v.required or v.default)
            },
        )
        connected = await _connect(adapter, ctx)
        yield Life(
            manifest=relocated,
            adapter=adapter,
            ctx=replace(ctx, variables=connected.variables),
            twin=app.state.twin,
            connected=connected,
        )


async def _connect(adapter: IntegrationAdapter, ctx: Context) -> Connected:
    if not isinstance(ctx.method, OAuth2Auth):
        account = TwinAccount()
        fields = getattr(ctx.method, "fields", ())
        typed = {f.name: SecretStr(account.credential(f.name)) for f in fields}
        return await adapter.connect_with_fields(ctx, typed)
    verifier = oauth.new_verifier()
    url = oauth.authorization_url(ctx, redirect_uri=BACK, state="state-1", verifier=verifier)
    back = await consent(ctx.http, url)
    assert back.startswith(BACK + "?")
    given = {k: v[0] for k, v in parse_qs(urlsplit(back).query).items()}
    assert given["state"] == "state-1"
    tokens = await oauth.exchange_code(
        ctx,
        code=given[ctx.method.authorization.code_param],
        redirect_uri=BACK,
        verifier=verifier,
        callback_params=given,
    )
    return await adapter.process_oauth_tokens(ctx, tokens)
