"""OAuth as a provider really does it: one table per endpoint, every deviation a named key.

Words are those of RFC 6749 (endpoints, parameters), RFC 7636 (PKCE), RFC 7009 (revocation),
RFC 8414 (metadata). A key left out means what the RFC says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from aura_core.manifest._base import Frozen, HeaderName, JsonPath, ParameterName, UrlTemplate

__all__ = [
    "Authorization",
    "ErrorInSuccess",
    "ExchangeStep",
    "JwtAssertion",
    "RefreshTokens",
    "Revocation",
    "TokenEndpoint",
    "TokenResponse",
]

ScopeText = Annotated[str, StringConstraints(min_length=1, max_length=512)]
TokenAuthMethod = Literal[
    "client_secret_post", "client_secret_basic", "private_key_jwt", "none", "custom"
]


class Authorization(Frozen):
    """The authorization endpoint (RFC 6749 §3.1)."""

    url: UrlTemplate
    fragment: str | None = None
    """Put behind ``#`` (single-page consent screens that route by fragment)."""
    params: dict[ParameterName, str] = Field(default_factory=dict)
    """Fixed extra parameters, e.g. ``access_type = "offline"``; values may hold variables."""
    renames: dict[ParameterName, str] = Field(default_factory=dict)
    """Standard name to the provider's; an empty string drops the parameter."""
    scope_param: ParameterName = "scope"
    scope_delimiter: Annotated[str, StringConstraints(min_length=1, max_length=3)] = " "
    user_scope_param: ParameterName | None = None
    """A second parameter for scopes of the user's own token (Slack ``user_scope``)."""
    default_scopes: tuple[ScopeText, ...] = ()
    """Always sent, whatever was asked."""
    user_scopes: tuple[ScopeText, ...] = ()
    """Sent in ``user_scope_param``."""
    offline_scope: ScopeText | None = None
    """The scope that makes the provider issue a refresh token."""
    pkce: Literal["required", "send", "omit"] = "send"
    pkce_method: Literal["S256", "plain"] = "S256"
    code_param: ParameterName = "code"
    """The callback parameter that holds the authorization code."""
    callback_metadata: tuple[ParameterName, ...] = ()
    """Callback parameters to keep in the connection's metadata (``realmId``, ``shop``)."""
    code_by_webhook: bool = False
    """The code does not come with the callback: the manifest alone cannot connect."""
    issuer: UrlTemplate | None = None
    """Expected ``iss`` (RFC 9207); checked when given, whether or not the provider sends it."""
    iss_required: bool = False
    """``authorization_response_iss_parameter_supported``: a callback without ``iss`` is refused."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.user_scopes and self.user_scope_param is None:
            raise ValueError("user_scopes needs user_scope_param")
        if self.iss_required and self.issuer is None:
            raise ValueError("iss_required needs issuer")
        return self


class ErrorInSuccess(Frozen):
    """An error answered with a success status: ``path`` present, or unlike ``ok``."""

    path: JsonPath
    ok: str | bool | int | None = None
    """The value that means success; ``None``: the key's mere presence is an error."""
    message_path: JsonPath | None = None
    code_path: JsonPath | None = None


class TokenResponse(Frozen):
    """Where the parts of a token answer are (RFC 6749 §5.1 unless said)."""

    access_token_path: JsonPath = "access_token"
    refresh_token_path: JsonPath = "refresh_token"
    expires_path: JsonPath = "expires_in"
    scope_path: JsonPath = "scope"
    id_token_path: JsonPath = "id_token"
    expires_kind: Literal[
        "seconds", "milliseconds", "epoch_seconds", "epoch_milliseconds", "iso8601"
    ] = "seconds"
    assumed_lifetime: Annotated[int, Field(ge=1)] | None = None
    """Seconds an access token lives when the answer does not say; ``None``: it does not expire."""
    scope_delimiter: str = " "
    alternate_container: JsonPath | None = None
    """A second object with tokens of its own (Slack ``authed_user``)."""
    metadata: dict[str, JsonPath] = Field(default_factory=dict)
    """Metadata key to path: what to keep of the answer (``instance_url``)."""
    format: Literal["json", "form", "auto"] = "json"
    """``auto`` reads form encoding when the answer is not JSON."""
    from_headers: dict[str, HeaderName] = Field(default_factory=dict)
    """Parts answered in response headers: ``access_token`` to the header's name."""
    from_cookies: dict[str, str] = Field(default_factory=dict)
    success_statuses: tuple[Annotated[int, Field(ge=200, le=299)], ...] = (200,)
    error: ErrorInSuccess | None = None
    error_path: JsonPath = "error"
    """Where a refusal's code is (RFC 6749 §5.2)."""
    error_description_path: JsonPath = "error_description"
    invalid_grant_codes: tuple[str, ...] = ()
    """Other codes that mean ``invalid_grant``: only the user can mend it."""
    invalid_client_codes: tuple[str, ...] = ()
    """Other codes that mean ``invalid_client``: only the operator can mend it."""


class TokenEndpoint(Frozen):
    """The token endpoint (RFC 6749 §3.2)."""

    url: UrlTemplate
    method: Literal["POST", "GET"] = "POST"
    body: Literal["form", "json", "query"] = "form"
    auth: TokenAuthMethod = "client_secret_post"
    also_accepts: tuple[TokenAuthMethod, ...] = ()
    """Other methods seen to work; documentation for the twin and the kit."""
    params: dict[ParameterName, str] = Field(default_factory=dict)
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    renames: dict[ParameterName, str] = Field(default_factory=dict)
    accept: str = "application/json"
    grant_type: str | None = None
    """Instead of the strategy's own (``account_credentials`` and the like)."""
    assertion_audience: str | None = None
    assertion_algorithm: Literal["RS256", "ES256", "PS256", "EdDSA"] | None = None
    """For ``private_key_jwt`` (RFC 7523)."""
    mtls: bool = False
    response: TokenResponse = Field(default_factory=TokenResponse)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.method == "GET" and self.body != "query":
            raise ValueError('method = "GET" needs body = "query"')
        if self.auth == "private_key_jwt" and self.assertion_algorithm is None:
            raise ValueError("private_key_jwt needs assertion_algorithm")
        return self


class RefreshTokens(Frozen):
    """How access tokens are renewed, and what the provider does with used refresh tokens."""

    mode: Literal["refresh_token", "none", "exchange"] = "refresh_token"
    """``exchange``: the access token itself is traded for a newer one."""
    rotation: Literal["none", "optional", "single_use"] = "optional"
    reuse: Literal["grace", "revokes_family", "rejected", "unknown"] = "unknown"
    """What happens to a refresh token presented twice."""
    retry_refresh: Literal["safe", "never"] = "never"
    """Whether the same refresh token may be sent again after a lost answer."""
    requires: Literal["nothing", "app_setting", "approval"] = "nothing"
    """What the provider asks of the app before it issues refresh tokens."""
    url: UrlTemplate | None = None
    method: Literal["POST", "GET"] | None = None
    params: dict[ParameterName, str] = Field(default_factory=dict)
    drop_params: tuple[ParameterName, ...] = ()
    token_param: ParameterName = "refresh_token"
    """``exchange`` names the parameter that carries the access token here."""
    sends_access_token: ParameterName | None = None
    """Some providers also want the old access token, under this name."""
    keeps_old_if_absent: bool = True
    """RFC 6749 §6: no new refresh token in the answer means that the old one stays valid;
    ``false``: it means that there is none any more."""
    margin: Annotated[int, Field(ge=0)] | None = None
    """Seconds before expiry to refresh; ``None``: a tenth of the lifetime, 60 to 600."""
    lifetime: Annotated[int, Field(ge=1)] | None = None
    """Seconds a refresh token lives unused, where the provider says so."""
    repeats_steps: bool = False
    """The steps after the exchange are taken after each refresh too (sessions)."""


class Revocation(Frozen):
    """How tokens are revoked at the provider (RFC 7009 unless said)."""

    url: UrlTemplate
    method: Literal["POST", "GET", "DELETE"] = "POST"
    body: Literal["form", "json", "query", "none"] = "form"
    auth: Literal["client_secret_post", "client_secret_basic", "bearer", "none"] = (
        "client_secret_post"
    )
    token_param: ParameterName = "token"
    hint_param: ParameterName | None = "token_type_hint"
    params: dict[ParameterName, str] = Field(default_factory=dict)
    revokes: tuple[Literal["access_token", "refresh_token"], ...] = (
        "refresh_token",
        "access_token",
    )
    """Which tokens are sent, in this order."""
    cascades: bool = False
    """One revocation ends the whole grant (Google, RFC 7009 §2.1 "MAY")."""
    success_statuses: tuple[Annotated[int, Field(ge=200, le=299)], ...] = (200, 204)
    error: ErrorInSuccess | None = None


class JwtAssertion(Frozen):
    """A JWT that the client signs itself (RFC 7523); templates see it as ``{signed_jwt}``.

    The values are templates over the fields, e.g. ``issuer = "{client_id}"``.
    """

    algorithm: Literal["RS256", "ES256", "PS256", "EdDSA"]
    key: str = "{private_key}"
    """PEM of the private key."""
    key_id: str | None = None
    issuer: str
    subject: str | None = None
    audience: str
    lifetime: Annotated[int, Field(ge=1, le=86400)] = 3600
    """Seconds."""
    claims: dict[str, str] = Field(default_factory=dict)


class ExchangeStep(Frozen):
    """One call of a login sequence; what it captures is a variable for the calls behind it."""

    url: UrlTemplate
    method: Literal["GET", "POST", "PUT"] = "POST"
    body: Literal["form", "json", "query", "xml", "none"] = "form"
    params: dict[ParameterName, str] = Field(default_factory=dict)
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    basic: tuple[str, str] | None = None
    """User name and password templates for HTTP Basic."""
    json_body: dict[str, Any] | None = None
    """The document template, where ``body = "json"`` and it is more than names and texts."""
    xml: str | None = None
    """The document template, where ``body = "xml"``; values are escaped."""
    captures: dict[str, JsonPath] = Field(default_factory=dict)
    capture_headers: dict[str, HeaderName] = Field(default_factory=dict)
    success_statuses: tuple[Annotated[int, Field(ge=200, le=299)], ...] = (200, 201)
    error: ErrorInSuccess | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.body == "xml") != (self.xml is not None):
            raise ValueError('body = "xml" and xml belong together')
        if self.json_body is not None and (self.body != "json" or self.params):
            raise ValueError('json_body needs body = "json" and takes the place of params')
        return self
