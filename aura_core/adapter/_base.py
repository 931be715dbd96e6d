"""The base class: the sequence of connecting, keeping and ending a connection."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter._calls import Told, binding, make_call, placed
from aura_core.adapter._values import (
    Connected,
    Context,
    RevocationResult,
    TokenAnswer,
    TokenRefresh,
    Validation,
)
from aura_core.credentials import CredentialEnvelope, CredentialPayload
from aura_core.errors import (
    ConfigurationError,
    InvalidInput,
    NotFound,
    ProviderRejected,
    ReauthorizationRequired,
)
from aura_core.manifest import (
    ClientCredentialsAuth,
    CodeAuth,
    KeyField,
    Manifest,
    OAuth2Auth,
    TokenExchangeAuth,
    WebhookAuth,
)
from aura_core.skills import VmSkillManifest, build_skill
from aura_core.tools import Tool, ToolApi, openai_function

__all__ = ["IntegrationAdapter"]

_NEVER_LEAVES = frozenset({"refresh_token"})
_NEVER_LEAVES_OAUTH = _NEVER_LEAVES | {"client_secret"}


class IntegrationAdapter:
    """Behaviour of one integration. Every step is done as the manifest says; an adapter overrides
    those in which its provider does what no manifest can. It holds no state.

    Where a step talks to the provider it raises :class:`ProviderUnavailable`,
    :class:`RateLimited` or :class:`ProviderRejected`, beside what it says itself.
    """

    id: str
    """Equals the manifest's id."""

    def __init__(self, provider: str | None = None) -> None:
        if provider is not None:
            self.id = provider

    # -- connecting

    def get_oauth_config(self, ctx: Context) -> OAuth2Auth | None:
        """The authorization code grant's facts; ``None``: this way has no redirect."""
        return ctx.method if isinstance(ctx.method, OAuth2Auth) else None

    def get_api_key_fields(self, ctx: Context) -> tuple[KeyField, ...] | None:
        """What the user types in; ``None``: nothing."""
        fields: tuple[KeyField, ...] = getattr(ctx.method, "fields", ())
        return None if isinstance(ctx.method, OAuth2Auth) or not fields else fields

    async def validate_api_key(self, ctx: Context, fields: Mapping[str, SecretStr]) -> Validation:
        """Whether the provider accepts the fields. Raises :class:`InvalidInput` for fields that
        are missing or malformed: the provider is not asked about those."""
        checked = self._checked(ctx, fields)
        ctx = _with_suffix(ctx, checked)
        try:
            tokens = await self._tokens(ctx, checked)
            if tokens is None:
                return await self._verified(ctx, checked)
            return await self._verified(_learned(ctx, tokens), {**checked, **_secrets(tokens)})
        except (ReauthorizationRequired, ProviderRejected) as error:
            return Validation(valid=False, reason=error.message)

    async def connect_with_fields(self, ctx: Context, fields: Mapping[str, SecretStr]) -> Connected:
        """Check the fields at the provider and say what to store. Raises :class:`InvalidInput`,
        and :class:`ProviderRejected` for a credential that does not work."""
        checked = self._checked(ctx, fields)
        ctx = _with_suffix(ctx, checked)
        try:
            tokens = await self._tokens(ctx, checked)
            secrets = checked if tokens is None else {**checked, **_secrets(tokens)}
            # The answer may be what says where the API is.
            ctx = ctx if tokens is None else _learned(ctx, tokens)
            validation = await self._verified(ctx, secrets)
        except ReauthorizationRequired as error:
            raise ProviderRejected(error.message) from None
        if not validation.valid:
            raise ProviderRejected(validation.reason or f"{ctx.manifest.name} refused.")
        asked: tuple[str, ...] = getattr(ctx.method, "scopes", ())
        connected = Connected(
            secrets=secrets,
            token_expiry=tokens.expires_at if tokens else None,
            scopes=asked if tokens is None or tokens.scopes is None else tokens.scopes,
            metadata={**(tokens.metadata if tokens else {}), **validation.metadata},
            account_id=validation.account_id,
            variables=dict(ctx.variables),
        )
        return await self._discovered(ctx, connected)

    async def process_oauth_tokens(self, ctx: Context, tokens: TokenAnswer) -> Connected:
        """What to store of a new authorization: tokens, granted scopes, whose account it is, and
        what the manifest keeps of the answers."""
        method = ctx.method
        if not isinstance(method, OAuth2Auth):
            raise ConfigurationError(f"{ctx.manifest.name} does not connect by OAuth in this way.")
        connected = Connected(
            secrets=_secrets(tokens),
            token_expiry=tokens.expires_at,
            scopes=method.scopes if tokens.scopes is None else tokens.scopes,
            metadata=dict(tokens.metadata),
            variables=dict(ctx.variables),
        )
        for source in ("callback", "token_response"):
            connected = _learn(ctx, connected, tokens.metadata, source)
        if method.userinfo is not None:
            known = replace(ctx, variables=connected.variables)
            told = await make_call(known, method.userinfo, connected.secrets)
            connected = _add(connected, told)
        return await self._discovered(ctx, connected)

    async def validate_credentials(self, ctx: Context, envelope: CredentialEnvelope) -> Validation:
        """Whether the provider still accepts a stored credential."""
        try:
            return await self._verified(ctx, envelope.secrets)
        except (ReauthorizationRequired, ProviderRejected) as error:
            return Validation(valid=False, reason=error.message)

    # -- keeping and ending

    async def refresh_token(
        self, ctx: Context, envelope: CredentialEnvelope
    ) -> TokenRefresh | None:
        """A newer access token; ``None``: there is nothing to renew it with. Raises like
        :func:`aura_core.oauth.refresh`. It sends each refresh token once."""
        method = ctx.method
        if isinstance(method, OAuth2Auth):
            exchanged = method.refresh.mode == "exchange"
            used = envelope.access_token if exchanged else envelope.refresh_token
            if method.refresh.mode == "none" or used is None:
                return None
            answer = await oauth.refresh(ctx, envelope)
        else:
            fresh = await self._tokens(ctx, envelope.secrets)
            if fresh is None:
                return None
            answer = fresh
        return TokenRefresh(
            access_token=answer.access_token,
            token_expiry=answer.expires_at,
            refresh_token=answer.refresh_token,
            scopes=answer.scopes,
        )

    async def on_disconnect(
        self, ctx: Context, envelope: CredentialEnvelope
    ) -> tuple[RevocationResult, ...]:
        """Revoke at the provider; one line of receipt for each token. Never raises for what the
        provider does."""
        return await oauth.revoke(ctx, envelope)

    # -- machines

    def get_vm_skill_manifest(
        self, manifest: Manifest, tools: Sequence[Tool], tools_source: str
    ) -> VmSkillManifest | None:
        """What the integration puts on a machine; ``None``: nothing."""
        return build_skill(manifest, tools, tools_source)

    def build_vm_credential_payload(
        self, ctx: Context, envelope: CredentialEnvelope, *, connection_revision: int
    ) -> CredentialPayload | None:
        """What a machine gets; ``None``: this integration is never delivered to machines.

        Only what the requests carry leaves: never a refresh token, and never the client's secret.
        """
        if ctx.manifest.skill is None:
            return None
        names = ctx.method.placed
        oauth_client = isinstance(ctx.method, OAuth2Auth | ClientCredentialsAuth)
        if set(names) & (_NEVER_LEAVES_OAUTH if oauth_client else _NEVER_LEAVES):
            raise ConfigurationError(
                f"{ctx.manifest.name} places a secret in requests that must not leave Aura."
            )
        secrets = placed(ctx, envelope.secrets)
        missing = [name for name in names if name not in secrets]
        if missing:
            raise ReauthorizationRequired(
                f"The connection to {ctx.manifest.name} holds no {missing[0]}.",
                hint="Connect the account again.",
            )
        return CredentialPayload(
            connection_id=envelope.integration_id,
            provider=ctx.manifest.id,
            connection_revision=connection_revision,
            fields=secrets,
            expires_at=envelope.token_expiry,
            scopes=envelope.scopes,
            binding=binding(ctx, envelope.secrets),
        )

    # -- chat tools

    def get_chat_tools(
        self,
        tools: Sequence[Tool],
        *,
        manifest: Manifest | None = None,
        granted: Collection[str] | None = None,
    ) -> list[dict[str, Any]]:
        """OpenAI definitions. With ``manifest`` and the ``granted`` provider scopes, a tool that
        needs one that was not granted is hidden."""
        needs = {fact.name: fact.scopes for fact in manifest.tools} if manifest else {}
        return [
            openai_function(tool)
            for tool in tools
            if granted is None or set(needs.get(tool.name, ())) <= set(granted)
        ]

    async def execute_chat_tool(
        self, tools: Sequence[Tool], name: str, arguments: Mapping[str, Any], api: ToolApi
    ) -> Any:
        """Run a tool. Raises :class:`NotFound`, :class:`InvalidInput`, and what ``api`` raises."""
        for tool in tools:
            if tool.name == name:
                return await tool.call(api, arguments)
        raise NotFound(f"There is no tool {name!r} here.")

    # -- steps of the sequence

    def _checked(self, ctx: Context, fields: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
        if isinstance(ctx.method, CodeAuth):
            raise ConfigurationError(f"{ctx.manifest.name}: {ctx.method.needs_code}")
        known = {field.name: field for field in getattr(ctx.method, "fields", ())}
        wrong = {name: "is not a field of this provider" for name in fields if name not in known}
        for name, field in known.items():
            value = fields[name].get_secret_value() if name in fields else ""
            if not value and field.required:
                wrong[name] = "is required"
            elif value and field.pattern and re.fullmatch(field.pattern, value) is None:
                wrong[name] = "does not have the expected form"
        if wrong or not known:
            raise InvalidInput(f"{ctx.manifest.name} cannot be connected like this.", fields=wrong)
        return {name: value for name, value in fields.items() if value.get_secret_value()}

    async def _tokens(self, ctx: Context, fields: Mapping[str, SecretStr]) -> TokenAnswer | None:
        """The token that the fields buy; ``None`` where they are the credential themselves."""
        if isinstance(ctx.method, ClientCredentialsAuth):
            return await oauth.client_credentials(ctx, fields)
        if isinstance(ctx.method, TokenExchangeAuth):
            return await oauth.run_exchange(ctx, fields)
        return None

    async def _verified(self, ctx: Context, secrets: Mapping[str, SecretStr]) -> Validation:
        """Ask the provider. Raises what :func:`make_call` raises: a refusal too."""
        if ctx.method.verify is None or isinstance(ctx.method, WebhookAuth):
            return Validation(valid=True, reason="The provider offers no call to check it with.")
        told = await make_call(ctx, ctx.method.verify, secrets)
        return Validation(valid=True, metadata=told.metadata, account_id=told.account_id)

    async def _discovered(self, ctx: Context, connected: Connected) -> Connected:
        for call in ctx.method.discover:
            told = await make_call(
                replace(ctx, variables=connected.variables), call, connected.secrets
            )
            connected = _learn(ctx, _add(connected, told), told.metadata, "discovery")
        return connected


def _secrets(tokens: TokenAnswer) -> dict[str, SecretStr]:
    found = {"access_token": tokens.access_token}
    if tokens.refresh_token is not None:
        found["refresh_token"] = tokens.refresh_token
    return found


def _with_suffix(ctx: Context, fields: Mapping[str, SecretStr]) -> Context:
    """Variables that are the end of the key (Mailchimp's ``...-us21``)."""
    names = [v.name for v in ctx.method.variables if v.provided_by == "api_key_suffix"]
    if not names or "api_key" not in fields:
        return ctx
    suffix = fields["api_key"].get_secret_value().rpartition("-")[2]
    found = oauth.accept_variables(ctx, dict.fromkeys(names, suffix), provided_by="api_key_suffix")
    return replace(ctx, variables={**ctx.variables, **found})


def _add(connected: Connected, told: Told) -> Connected:
    return replace(
        connected,
        metadata={**connected.metadata, **told.metadata},
        account_id=connected.account_id or told.account_id,
    )


def _learned(ctx: Context, tokens: TokenAnswer) -> Context:
    found = oauth.accept_variables(ctx, tokens.metadata, provided_by="token_response")
    return replace(ctx, variables={**ctx.variables, **found})


def _learn(ctx: Context, connected: Connected, found: Mapping[str, Any], source: str) -> Connected:
    learned = oauth.accept_variables(ctx, found, provided_by=source)
    return replace(connected, variables={**connected.variables, **learned})
