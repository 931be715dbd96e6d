"""Manifests: the static facts of integrations (TOML), checked and frozen.

The reference of all keys is the models themselves: :class:`Manifest` and what it is made of.
"""

from __future__ import annotations

from aura_core.manifest._auth import (
    ApiKeyAuth,
    AuthMethod,
    BasicAuth,
    ClientCredentialsAuth,
    CodeAuth,
    OAuth2Auth,
    OAuthClient,
    TokenExchangeAuth,
    WebhookAuth,
)
from aura_core.manifest._base import is_loopback, read_path, template_variables
from aura_core.manifest._load import check_manifest, load_manifest
from aura_core.manifest._model import Manifest, relocate
from aura_core.manifest._oauth import (
    Authorization,
    ErrorInSuccess,
    ExchangeStep,
    JwtAssertion,
    RefreshTokens,
    Revocation,
    TokenEndpoint,
    TokenResponse,
)
from aura_core.manifest._request import (
    BEARER,
    OUTBOUND,
    Api,
    Call,
    Environment,
    KeyField,
    McpServer,
    PermissionScope,
    Placement,
    RateLimit,
    Rule,
    Skill,
    TokenUsage,
    ToolFacts,
    Variable,
    snake_case,
)
from aura_core.manifest._values import is_public_host, wrong_value

__all__ = [
    "BEARER",
    "OUTBOUND",
    "Api",
    "ApiKeyAuth",
    "AuthMethod",
    "Authorization",
    "BasicAuth",
    "Call",
    "ClientCredentialsAuth",
    "CodeAuth",
    "Environment",
    "ErrorInSuccess",
    "ExchangeStep",
    "JwtAssertion",
    "KeyField",
    "Manifest",
    "McpServer",
    "OAuth2Auth",
    "OAuthClient",
    "PermissionScope",
    "Placement",
    "RateLimit",
    "RefreshTokens",
    "Revocation",
    "Rule",
    "Skill",
    "TokenEndpoint",
    "TokenExchangeAuth",
    "TokenResponse",
    "TokenUsage",
    "ToolFacts",
    "Variable",
    "WebhookAuth",
    "check_manifest",
    "is_loopback",
    "is_public_host",
    "load_manifest",
    "read_path",
    "relocate",
    "snake_case",
    "template_variables",
    "wrong_value",
]
