"""Adapters: an integration's behaviour. The base class owns the sequence, an adapter overrides the
two or three steps in which its provider differs.

Adapters hold no state. Everything a step needs is in its :class:`Context`: the manifest, the way
the user authenticates, the operator's OAuth client, and an HTTP client with time-outs.
"""

from __future__ import annotations

from aura_core.adapter._base import IntegrationAdapter
from aura_core.adapter._calls import binding, placed
from aura_core.adapter._strategies import (
    ApiKeyAdapter,
    OAuthAdapter,
    WebhookAdapter,
    default_adapter,
)
from aura_core.adapter._values import (
    Connected,
    Context,
    OAuthClientSettings,
    RevocationResult,
    TokenAnswer,
    TokenRefresh,
    Validation,
)

__all__ = [
    "ApiKeyAdapter",
    "Connected",
    "Context",
    "IntegrationAdapter",
    "OAuthAdapter",
    "OAuthClientSettings",
    "RevocationResult",
    "TokenAnswer",
    "TokenRefresh",
    "Validation",
    "WebhookAdapter",
    "binding",
    "default_adapter",
    "placed",
]
