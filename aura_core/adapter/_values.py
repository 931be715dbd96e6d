"""What an adapter's steps are given and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from aura_core.errors import ConfigurationError
from aura_core.manifest import AuthMethod, Manifest

__all__ = [
    "Connected",
    "Context",
    "OAuthClientSettings",
    "RevocationResult",
    "TokenAnswer",
    "TokenRefresh",
    "Validation",
]


@dataclass(frozen=True, kw_only=True)
class OAuthClientSettings:
    """The operator's registered client at the provider (RFC 6749 §2.2)."""

    client_id: str
    client_secret: SecretStr | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step is given. ``variables`` fill the manifest's templates; the one called
    ``environment`` chooses one of its environments, which manifest and method then are of.

    Raises :class:`ConfigurationError` for an environment that the manifest does not have.
    """

    manifest: Manifest
    method: AuthMethod
    http: httpx.AsyncClient
    now: Callable[[], datetime]
    client: OAuthClientSettings | None = None
    variables: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        chosen = self.variables.get("environment")
        if chosen is None:
            return
        try:
            manifest = self.manifest.in_environment(chosen)
        except KeyError:
            raise ConfigurationError(
                f"{self.manifest.name} has no environment {chosen!r}."
            ) from None
        object.__setattr__(self, "manifest", manifest)
        name = self.method.id or self.method.strategy
        object.__setattr__(self, "method", manifest.auth_method(name))


@dataclass(frozen=True, kw_only=True)
class TokenAnswer:
    """A token endpoint's answer, read as the manifest says. ``raw`` never enters a log."""

    access_token: SecretStr
    refresh_token: SecretStr | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    """``None``: not said, which means "as asked" (RFC 6749 §5.1)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id_token: SecretStr | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Connected:
    """What is stored of a new connection."""

    secrets: Mapping[str, SecretStr]
    """``access_token`` and maybe ``refresh_token``; or the key fields."""
    token_expiry: datetime | None = None
    scopes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    account_id: str | None = None
    """The provider's identity of the account, compared when the user authorizes again."""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Whether the provider accepts a credential; ``reason`` is for the user."""

    valid: bool
    reason: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    account_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class TokenRefresh:
    """A refresh's outcome. ``refresh_token`` is set only when the provider sent one (rotation)."""

    access_token: SecretStr
    token_expiry: datetime | None
    refresh_token: SecretStr | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RevocationResult:
    """One line of a disconnect's receipt."""

    token: Literal["access_token", "refresh_token", "api_key"]
    outcome: Literal["revoked", "already_invalid", "not_offered", "failed"]
    detail: str = ""
    retry: bool = False
    """Whether a failure may pass: the token is then kept and sent again later."""
