"""Ways to authenticate; ``strategy`` tells which."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from aura_core.manifest._base import (
    Frozen,
    Id,
    JsonPath,
    UrlTemplate,
    template_variables,
)
from aura_core.manifest._oauth import (
    Authorization,
    ExchangeStep,
    JwtAssertion,
    RefreshTokens,
    Revocation,
    TokenEndpoint,
    TokenResponse,
)
from aura_core.manifest._request import BEARER, Call, KeyField, Placement, Variable

__all__ = [
    "ApiKeyAuth",
    "AuthMethod",
    "BasicAuth",
    "ClientCredentialsAuth",
    "CodeAuth",
    "OAuth2Auth",
    "OAuthClient",
    "TokenExchangeAuth",
    "WebhookAuth",
]


class OAuthClient(Frozen):
    """The environment variables that hold the operator's registered client."""

    id_env: str
    secret_env: str | None = None
    """``None``: a public client."""


class _Auth(Frozen):
    """What every way to authenticate has."""

    id: Id | None = None
    """Unique within the manifest; the strategy's name when left out."""
    label: str | None = None
    variables: tuple[Variable, ...] = ()
    placements: tuple[Placement, ...] = (BEARER,)
    verify: Call | None = None
    """A cheap call that shows whether the credential works."""
    discover: tuple[Call, ...] = ()
    """Follow-up calls after connecting; what they capture becomes variables and metadata."""
    revocation: Revocation | None = None

    @property
    def placed(self) -> tuple[str, ...]:
        """Names of what the placements put into a request, each once."""
        return tuple(
            dict.fromkeys(
                name
                for placement in self.placements
                for text in placement.texts
                for name in template_variables(text)
            )
        )


class OAuth2Auth(_Auth):
    """Authorization code grant (RFC 6749 §4.1)."""

    strategy: Literal["oauth2"]
    client: OAuthClient
    authorization: Authorization
    token: TokenEndpoint
    refresh: RefreshTokens = Field(default_factory=RefreshTokens)
    userinfo: Call | None = None
    scopes: tuple[str, ...] = ()
    """Asked for at connection."""
    introspection_url: UrlTemplate | None = None
    device_authorization_url: UrlTemplate | None = None
    after_exchange: tuple[ExchangeStep, ...] = ()
    """Steps between the code exchange and a usable access token (long-lived tokens, sessions)."""
    sunset: date | None = None
    """When the provider turns these endpoints off."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.client.secret_env is None and self.token.auth not in ("none", "custom"):
            raise ValueError(f'token.auth = "{self.token.auth}" needs client.secret_env')
        return self


class ClientCredentialsAuth(_Auth):
    """Client credentials grant (RFC 6749 §4.4); the client is the user's own."""

    strategy: Literal["oauth2_client_credentials"]
    fields: tuple[KeyField, ...] = (
        KeyField(name="client_id", label="Client ID", secret=False),
        KeyField(name="client_secret", label="Client secret"),
    )
    token: TokenEndpoint
    scopes: tuple[str, ...] = ()
    scope_delimiter: str = " "


class TokenExchangeAuth(_Auth):
    """A login call, password grant or assertion grant, possibly in several steps."""

    strategy: Literal["token_exchange"]
    fields: tuple[KeyField, ...]
    assertion: JwtAssertion | None = None
    """Signed before the first step."""
    steps: Annotated[tuple[ExchangeStep, ...], Field(min_length=1)]
    response: TokenResponse = Field(default_factory=TokenResponse)
    """Read from the last step's answer."""


class ApiKeyAuth(_Auth):
    """One or more secrets that the user pastes."""

    strategy: Literal["api_key"]
    fields: Annotated[tuple[KeyField, ...], Field(min_length=1)] = (
        KeyField(name="api_key", label="API key"),
    )
    placements: tuple[Placement, ...] = (
        Placement(at="header", name="Authorization", format="Bearer {api_key}"),
    )


class BasicAuth(_Auth):
    """HTTP Basic (RFC 7617); constant or blank halves are literal templates."""

    strategy: Literal["basic"]
    fields: Annotated[tuple[KeyField, ...], Field(min_length=1)] = (
        KeyField(name="username", label="User name", secret=False),
        KeyField(name="password", label="Password"),
    )
    placements: tuple[Placement, ...] = (
        Placement(at="basic", username="{username}", password="{password}"),
    )


class WebhookAuth(_Auth):
    """The provider calls us; the secret verifies it."""

    strategy: Literal["webhook"]
    fields: tuple[KeyField, ...] = (KeyField(name="signing_secret", label="Signing secret"),)
    signature_header: str
    scheme: Literal[
        "standard_webhooks", "stripe", "slack", "github", "hmac_sha256", "hmac_sha1", "ed25519"
    ]
    timestamp_header: str | None = None
    event_id_path: JsonPath | None = None
    placements: tuple[Placement, ...] = ()


class CodeAuth(_Auth):
    """Needs code: signatures and protocols that cannot be declared (SigV4, OVH, WSSE, DPoP)."""

    strategy: Literal["oauth1", "aws_sigv4", "signature", "jwt", "app_installation"]
    fields: tuple[KeyField, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)
    """Protocol facts for the adapter."""
    needs_code: str
    """Why, in a sentence for users."""
    placements: tuple[Placement, ...] = ()


AuthMethod = Annotated[
    OAuth2Auth
    | ClientCredentialsAuth
    | TokenExchangeAuth
    | ApiKeyAuth
    | BasicAuth
    | WebhookAuth
    | CodeAuth,
    Field(discriminator="strategy"),
]
