"""Contract tests that any integration inherits:

    class TestGoogle(IntegrationContract):
        provider = "google"

They find the integration as the host does, and connect, refresh, call and disconnect against a twin
made from its own manifest: no account and no network are needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import Connected, Context, OAuthClientSettings, binding, placed
from aura_core.api import BoundApi, http_client
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import AuraError, InvalidInput, ProviderRejected
from aura_core.manifest import AuthMethod, CodeAuth, OAuth2Auth, Variable, WebhookAuth
from aura_core.placement import resolve_target
from aura_core.registry import Integration, Registry
from aura_core.skills import pack_skills, skill_digest
from aura_core.testing.twin import Twin, TwinAccount, consent, create_twin

__all__ = ["IntegrationContract"]

_ORIGIN = "http://127.0.0.1:9"
_BACK = "https://aura.example/callback"
_CLIENT = OAuthClientSettings(
    client_id="contract-client", client_secret=SecretStr("contract-client-secret")
)
_MOST_USER_DATA = 24 * 1024


@dataclass(frozen=True, kw_only=True)
class _Sides:
    ctx: Context
    twin: Twin


@asynccontextmanager
async def _sides(integration: Integration, method: AuthMethod) -> AsyncIterator[_Sides]:
    manifest = integration.manifest
    app = create_twin(manifest, origin=_ORIGIN, client=_CLIENT)
    relocated = manifest.relocated(_ORIGIN)
    async with http_client(transport=httpx.ASGITransport(app)) as http:
        ctx = Context(
            manifest=relocated,
            method=relocated.auth_method(method.id or method.strategy),
            http=http,
            now=lambda: datetime.now(UTC),
            client=_CLIENT,
            variables={
                v.name: _value(v)
                for v in method.variables
                if v.provided_by == "user" and (v.required or v.default)
            },
        )
        yield _Sides(ctx=ctx, twin=app.state.twin)


def _value(variable: Variable) -> str:
    if variable.default is not None:
        return variable.default
    if variable.choices:
        return variable.choices[0]
    return "https://twin.example.com" if variable.url else "twin"


class IntegrationContract:
    """Inherit it and name the ``provider``; ``arguments`` gives each tool a call that the plugin's
    examples answer."""

    provider: str
    arguments: Mapping[str, Mapping[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def integration(cls) -> Integration:
        return Registry.discover().open(cls.provider)

    def test_it_is_listed_as_available(self) -> None:
        (line,) = [x for x in Registry.discover().listings() if x.id == self.provider]
        assert line.status == "available", line.reason

    def test_the_adapter_says_who_it_is(self, integration: Integration) -> None:
        assert integration.adapter.id == integration.manifest.id == self.provider

    def test_tools_are_those_of_the_manifest(self, integration: Integration) -> None:
        declared = {tool.name: tool.description for tool in integration.manifest.tools}
        assert {tool.name: tool.description for tool in integration.tools} == declared

    def test_tools_need_only_scopes_that_are_asked_for(self, integration: Integration) -> None:
        asked = {s for m in integration.manifest.auth for s in getattr(m, "scopes", ())}
        for tool in integration.manifest.tools:
            assert set(tool.scopes) <= asked, f"{tool.name} needs what is never asked for"

    def test_tools_have_definitions(self, integration: Integration) -> None:
        for definition in integration.adapter.get_chat_tools(integration.tools):
            parameters = definition["function"]["parameters"]
            assert parameters["type"] == "object"
            assert parameters["additionalProperties"] is False
            for name, schema in parameters["properties"].items():
                assert schema.keys() & {"type", "anyOf", "enum", "$ref", "allOf"}, name

    def test_the_skill_builds_alike_each_time_and_stays_small(
        self, integration: Integration
    ) -> None:
        def build() -> Any:
            return integration.adapter.get_vm_skill_manifest(
                integration.manifest, integration.tools, integration.tools_source
            )

        skill = build()
        assert (skill is None) == (integration.manifest.skill is None)
        if skill is not None:
            assert skill_digest(skill) == skill_digest(build())
            assert len(pack_skills([skill])) < _MOST_USER_DATA

    def test_every_rule_is_for_a_host_of_the_manifest(self, integration: Integration) -> None:
        for rule in integration.manifest.api.rules:
            assert rule.host is None or rule.host in integration.manifest.hosts

    async def test_it_connects_renews_and_disconnects(self, integration: Integration) -> None:
        for method in integration.manifest.auth:
            if isinstance(method, CodeAuth | WebhookAuth):
                continue
            async with _sides(integration, method) as sides:
                connected = await _connected(integration, sides)
                _no_secret_in_the_open(connected)
                envelope = _envelope(self.provider, sides.ctx, connected)
                ctx = _with_variables(sides.ctx, connected)
                assert (await integration.adapter.validate_credentials(ctx, envelope)).valid
                fresh = await integration.adapter.refresh_token(ctx, envelope)
                if fresh is not None:
                    assert fresh.access_token != envelope.access_token
                receipt = await integration.adapter.on_disconnect(ctx, envelope)
                assert receipt
                offered = method.revocation is not None
                outcomes = {line.outcome for line in receipt}
                assert outcomes <= ({"revoked", "already_invalid"} if offered else {"not_offered"})
                if offered:
                    gone = await integration.adapter.validate_credentials(ctx, envelope)
                    assert not gone.valid or method.verify is None

    async def test_a_wrong_credential_is_refused(self, integration: Integration) -> None:
        for method in integration.manifest.auth:
            fields = getattr(method, "fields", ())
            if not fields or method.verify is None or isinstance(method, CodeAuth | WebhookAuth):
                continue
            async with _sides(integration, method) as sides:
                wrong = {field.name: SecretStr("wrong-" + field.name) for field in fields}
                with pytest.raises((ProviderRejected, InvalidInput)):
                    await integration.adapter.connect_with_fields(sides.ctx, wrong)

    async def test_machines_get_nothing_that_renews(self, integration: Integration) -> None:
        method = integration.manifest.auth_method()
        if isinstance(method, CodeAuth | WebhookAuth):
            return
        async with _sides(integration, method) as sides:
            connected = await _connected(integration, sides)
            envelope = _envelope(self.provider, sides.ctx, connected)
            payload = integration.adapter.build_vm_credential_payload(
                _with_variables(sides.ctx, connected), envelope, connection_revision=1
            )
            assert (payload is None) == (integration.manifest.skill is None)
            if payload is not None:
                text = payload.model_dump_json()
                for name in ("refresh_token", "client_secret"):
                    secret = envelope.secrets.get(name)
                    assert secret is None or secret.get_secret_value() not in text
                assert "contract-client-secret" not in text

    async def test_tools_run_against_the_examples(self, integration: Integration) -> None:
        assert set(self.arguments) <= {tool.name for tool in integration.tools}
        async with _sides(integration, integration.manifest.auth_method()) as sides:
            if not self.arguments:
                return
            connected = await _connected(integration, sides)
            bound = binding(_with_variables(sides.ctx, connected), connected.secrets)
            api = BoundApi(bound, placed(sides.ctx, connected.secrets), sides.ctx.http)
            for name, arguments in self.arguments.items():
                answer = await integration.adapter.execute_chat_tool(
                    integration.tools, name, arguments, api
                )
                assert answer is not None, name

    async def test_a_call_to_another_host_is_refused(self, integration: Integration) -> None:
        async with _sides(integration, integration.manifest.auth_method()) as sides:
            connected = await _connected(integration, sides)
            bound = binding(_with_variables(sides.ctx, connected), connected.secrets)
            for url in ("https://evil.example/", f"https://{bound.hosts[0]}.evil.example/"):
                with pytest.raises(AuraError):
                    resolve_target(bound, url)


async def _connected(integration: Integration, sides: _Sides) -> Connected:
    """Connect as a user would."""
    ctx = sides.ctx
    adapter = integration.adapter
    if not isinstance(ctx.method, OAuth2Auth):
        account = TwinAccount()
        fields = {
            f.name: SecretStr(account.credential(f.name)) for f in getattr(ctx.method, "fields", ())
        }
        return await adapter.connect_with_fields(ctx, fields)
    verifier = oauth.new_verifier()
    url = oauth.authorization_url(ctx, redirect_uri=_BACK, state="state-1", verifier=verifier)
    back = await consent(ctx.http, url)
    given = {k: v[0] for k, v in parse_qs(urlsplit(back).query).items()}
    assert given["state"] == "state-1"
    tokens = await oauth.exchange_code(
        ctx,
        code=given[ctx.method.authorization.code_param],
        redirect_uri=_BACK,
        verifier=verifier,
        callback_params=given,
    )
    return await adapter.process_oauth_tokens(ctx, tokens)


def _no_secret_in_the_open(connected: Connected) -> None:
    shown = repr(connected) + repr(connected.metadata)
    for secret in connected.secrets.values():
        assert secret.get_secret_value() not in shown


def _envelope(provider: str, ctx: Context, connected: Connected) -> CredentialEnvelope:
    return CredentialEnvelope(
        integration_id="contract",
        user_id="user",
        provider=provider,
        auth_id=ctx.method.id or ctx.method.strategy,
        secrets=connected.secrets,
        token_expiry=connected.token_expiry,
        scopes=connected.scopes,
        metadata=connected.metadata,
        variables=connected.variables,
    )


def _with_variables(ctx: Context, connected: Connected) -> Context:
    return replace(ctx, variables=connected.variables)
