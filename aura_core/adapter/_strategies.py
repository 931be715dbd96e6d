"""Adapters by strategy: what changes when there is only one way to connect."""

from __future__ import annotations

from aura_core.adapter._base import IntegrationAdapter
from aura_core.adapter._values import Context, TokenRefresh, Validation
from aura_core.credentials import CredentialEnvelope, CredentialPayload
from aura_core.manifest import KeyField, Manifest, OAuth2Auth

__all__ = ["ApiKeyAdapter", "OAuthAdapter", "WebhookAdapter", "default_adapter"]


class OAuthAdapter(IntegrationAdapter):
    """For a provider that users connect by redirect only."""

    def get_api_key_fields(self, ctx: Context) -> tuple[KeyField, ...] | None:
        return None


class ApiKeyAdapter(IntegrationAdapter):
    """For a provider that users connect by typing something in; there is nothing to renew."""

    def get_oauth_config(self, ctx: Context) -> OAuth2Auth | None:
        return None

    async def refresh_token(
        self, ctx: Context, envelope: CredentialEnvelope
    ) -> TokenRefresh | None:
        return None


class WebhookAdapter(ApiKeyAdapter):
    """For a provider that calls us: its secret verifies, and is never placed in a request."""

    async def validate_credentials(self, ctx: Context, envelope: CredentialEnvelope) -> Validation:
        return Validation(valid=bool(envelope.secrets), reason="Only a call of theirs can show it.")

    def build_vm_credential_payload(
        self, ctx: Context, envelope: CredentialEnvelope, *, connection_revision: int
    ) -> CredentialPayload | None:
        return None


_STRATEGIES: dict[frozenset[str], type[IntegrationAdapter]] = {
    frozenset({"oauth2"}): OAuthAdapter,
    frozenset({"api_key"}): ApiKeyAdapter,
    frozenset({"basic"}): ApiKeyAdapter,
    frozenset({"webhook"}): WebhookAdapter,
}


def default_adapter(manifest: Manifest) -> IntegrationAdapter:
    """The adapter of a provider without behaviour of its own: the manifest says it all."""
    strategies = frozenset(method.strategy for method in manifest.auth)
    return _STRATEGIES.get(strategies, IntegrationAdapter)(manifest.id)
