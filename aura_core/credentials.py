"""Credentials in memory: the envelope that adapters see and the payload that a machine gets.

Secrets are ``pydantic.SecretStr`` wherever they are held: their repr, str and JSON dump are
asterisks, so a forgotten log line shows nothing. ``get_secret_value()`` is the one way out, and
easy to search for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer

from aura_core.manifest import AuthMethod, Manifest, Placement, RateLimit, Rule, TokenUsage
from aura_core.manifest._base import VARIABLE

__all__ = ["BrokerBinding", "CredentialEnvelope", "CredentialPayload", "bind", "fill"]


class CredentialEnvelope(BaseModel):
    """One row of ``integrations`` with typed access; encrypted and decrypted values apart.

    ``secrets`` holds what has been decrypted for the step at hand and nothing else:
    ``access_token`` and ``refresh_token`` of an OAuth connection, or the fields the user typed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    integration_id: str
    user_id: str
    provider: str
    auth_id: str
    encrypted_access_token: str | None = Field(default=None, repr=False)
    encrypted_refresh_token: str | None = Field(default=None, repr=False)
    secrets: Mapping[str, SecretStr] = Field(default_factory=dict)
    token_expiry: datetime | None = None
    scopes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = Field(default_factory=dict)
    variables: Mapping[str, str] = Field(default_factory=dict)
    """Values for the manifest's templated URLs."""
    connected_at: datetime | None = None

    @property
    def access_token(self) -> SecretStr | None:
        return self.secrets.get("access_token")

    @property
    def refresh_token(self) -> SecretStr | None:
        return self.secrets.get("refresh_token")

    def is_expired(self, now: datetime) -> bool:
        """Whether the token's life is over; a token without expiry never is."""
        return self.token_expiry is not None and self.token_expiry <= now


class BrokerBinding(BaseModel):
    """The manifest's facts that the broker needs, with every template but the secrets' filled in.

    It travels inside the sealed credential, so a token and the places it may go to are one value:
    nobody who controls one can change the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    base_url: str
    hosts: tuple[str, ...]
    placements: tuple[Placement, ...]
    headers: Mapping[str, str] = Field(default_factory=dict)
    query: Mapping[str, str] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    usage: tuple[TokenUsage, ...] = ()
    rate_limit: RateLimit = Field(default_factory=RateLimit)
    relocations: Mapping[str, str] = Field(default_factory=dict)
    private_hosts: tuple[str, ...] = ()
    """Of ``hosts``, those that the operator lets resolve to private addresses."""
    public_fields: tuple[str, ...] = ()
    """Fields of the credential that are no secret (a user name, an account's id): a provider's
    answer may hold them, while one that holds any other field is not passed on."""


class CredentialPayload(BaseModel):
    """Plaintext of a delivered credential: the ``fields`` that ``binding.placements`` name."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["credential"] = "credential"
    connection_id: str
    provider: str
    connection_revision: int
    fields: Mapping[str, SecretStr]
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    binding: BrokerBinding

    @field_serializer("fields", when_used="json")
    def _reveal(self, fields: Mapping[str, SecretStr]) -> dict[str, str]:
        # The one serialisation that shows them: its bytes go straight into HPKE.
        return {name: secret.get_secret_value() for name, secret in fields.items()}


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill ``{variables}``; raises ``KeyError`` naming a missing one. Values are inserted as is:
    they were checked against their variable's pattern when they were accepted. A value that looks
    like a variable stays what it is: otherwise a user name of ``{password}`` would spell it."""
    return VARIABLE.sub(lambda match: values[match[1]], template)


def bind(manifest: Manifest, method: AuthMethod, variables: Mapping[str, str]) -> BrokerBinding:
    """The binding of one connection. Raises ``KeyError`` for a variable without a value."""
    if "environment" in variables:
        manifest = manifest.in_environment(variables["environment"])
        method = manifest.auth_method(method.id or method.strategy)
    # A host is named by a URL's variable without its scheme and path.
    bare = {name: urlsplit(v).netloc if "://" in v else v for name, v in variables.items()}
    hosts = tuple(fill(host, bare) for host in manifest.hosts)
    return BrokerBinding(
        provider=manifest.id,
        base_url=fill(manifest.api.base_url, variables),
        hosts=hosts,
        placements=method.placements,
        headers={k: fill(v, variables) for k, v in manifest.api.headers.items()},
        query={k: fill(v, variables) for k, v in manifest.api.query.items()},
        rules=manifest.api.rules,
        usage=manifest.api.usage,
        rate_limit=manifest.api.rate_limit,
        private_hosts=tuple(name for name in manifest.private_hosts if _is_among(name, hosts)),
        relocations=dict(manifest.relocations),
        public_fields=(
            *(f.name for f in getattr(method, "fields", ()) if not f.secret),
            *(("client_id",) if method.strategy == "oauth2" else ()),
        ),
    )


def _is_among(name: str, hosts: tuple[str, ...]) -> bool:
    bare = (host.rpartition(":")[0] or host for host in hosts if not host.startswith("["))
    return any(name.endswith(host[1:]) if host.startswith("*.") else name == host for host in bare)
