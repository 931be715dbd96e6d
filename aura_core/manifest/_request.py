"""What a request to the provider looks like: placement, rules, rate limits, calls, tools."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from aura_core.manifest._base import (
    Frozen,
    HeaderName,
    HostPattern,
    HttpMethod,
    Id,
    JsonPath,
    Pattern,
    UrlTemplate,
    VariableName,
)
from aura_core.manifest._oauth import ErrorInSuccess

PermissionScope = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$")]
"""A permission scope of an agent, e.g. ``email:read`` (seed scopes and plugins' own)."""

OUTBOUND: PermissionScope = "api:outbound"
"""What a request that no rule names needs."""


class Placement(Frozen):
    """Where a credential goes in a request. ``format`` is a template over its fields."""

    at: Literal["header", "query", "path", "body", "basic"]
    name: str | None = None
    format: str = "{access_token}"
    username: str = ""
    password: str = ""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.at in ("header", "query", "path", "body") and not self.name:
            raise ValueError(f'at = "{self.at}" needs name')
        if self.at == "basic" and not (self.username or self.password):
            raise ValueError('at = "basic" needs username or password')
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """The templates that are filled in at this place."""
        return (self.username, self.password) if self.at == "basic" else (self.format,)


BEARER = Placement(at="header", name="Authorization", format="Bearer {access_token}")
"""RFC 6750 §2.1, the default for OAuth."""


class Rule(Frozen):
    """Maps requests to the permission scope they need. First match wins.

    ``path`` is a pattern over the percent-decoded path: ``*`` is one segment, ``**`` any number.
    """

    methods: tuple[HttpMethod, ...]
    path: Annotated[str, StringConstraints(pattern=r"^/")]
    scope: PermissionScope
    host: HostPattern | None = None
    """Only for this host; ``None``: the host of the API's base URL."""


class TokenUsage(Frozen):
    """Calls that spend a language model's tokens, and where their answer says how many.

    Each of ``tokens`` is one quantity (input, output): a path into the JSON answer, or several
    paths where plain and streamed answers differ. In a stream of events every ``data:`` line is
    looked into and the last value of a quantity counts, because models report totals so far.
    """

    methods: tuple[HttpMethod, ...] = ("POST",)
    path: Annotated[str, StringConstraints(pattern=r"^/")]
    """A pattern as in :class:`Rule`."""
    tokens: Annotated[
        tuple[Annotated[tuple[JsonPath, ...], Field(min_length=1, max_length=8)], ...],
        Field(min_length=1, max_length=16),
    ]
    host: HostPattern | None = None
    """Only for this host; ``None``: the host of the API's base URL."""

    @field_validator("tokens", mode="before")
    @classmethod
    def _one_path_is_enough(cls, tokens: Any) -> Any:
        if not isinstance(tokens, list | tuple):
            return tokens
        return tuple((one,) if isinstance(one, str) else one for one in tokens)


class RateLimit(Frozen):
    """How the provider says "slow down" (RFC 6585 §4, RFC 9110 §10.2.3 unless said)."""

    statuses: tuple[Annotated[int, Field(ge=400, le=599)], ...] = (429,)
    """Those but 429 mean other things too, and need evidence: one of ``codes``, nothing remaining,
    or a time to come back."""
    retry_after_header: HeaderName | None = "Retry-After"
    remaining_header: HeaderName | None = None
    reset_header: HeaderName | None = None
    reset_kind: Literal["epoch_seconds", "epoch_milliseconds", "delta_seconds", "iso8601"] = (
        "epoch_seconds"
    )
    code_path: JsonPath | None = None
    """With ``codes``: the body tells a rate limit from another error of the same status."""
    codes: tuple[str, ...] = ()
    hint_path: JsonPath | None = None
    """Where the body says how many seconds to wait."""
    backoff: Literal["exponential", "constant"] = "exponential"


class Call(Frozen):
    """A request of the manifest's own: verification or discovery."""

    url: UrlTemplate
    method: HttpMethod = "GET"
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    json_body: dict[str, Any] | None = None
    success_statuses: tuple[Annotated[int, Field(ge=200, le=299)], ...] = (200,)
    metadata: dict[str, JsonPath] = Field(default_factory=dict)
    """Metadata key to path in the answer."""
    account_path: JsonPath | None = None
    """Where the provider's own identity of the account is; compared when reauthorizing."""
    error: ErrorInSuccess | None = None
    billed: bool = False
    """The call counts against a paid quota."""


class Variable(Frozen):
    """A value that URL templates and the API's headers may hold. It is kept in the open: what is
    secret is a field of the credential."""

    name: VariableName
    provided_by: Literal["user", "callback", "token_response", "discovery", "api_key_suffix"] = (
        "user"
    )
    label: str | None = None
    default: str | None = None
    choices: tuple[str, ...] = ()
    pattern: Pattern | None = None
    """Full-match regular expression; without one: a DNS label (letters, digits, inner hyphens)."""
    url: bool = False
    """The value holds scheme and host; only https, and only hosts that ``hosts`` names."""
    required: bool = True


class KeyField(Frozen):
    """Something the user types in to connect by key (seed 003: ApiKeyFieldDescriptor)."""

    name: VariableName
    label: str
    secret: bool = True
    required: bool = True
    pattern: Pattern | None = None
    help: str | None = None
    max_length: Annotated[int, Field(ge=1, le=65536)] = 4096


class ToolFacts(Frozen):
    """What must be known of a tool before its code is imported."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,62}$")]
    description: Annotated[str, StringConstraints(min_length=8, max_length=1024)]
    scopes: tuple[str, ...] = ()
    """Provider scopes; a tool whose scopes were not granted is hidden."""


class Skill(Frozen):
    """The skill folder on the machine, generated from the tools."""

    dir_name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    command: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    description: Annotated[str, StringConstraints(min_length=8, max_length=1024)]


class Api(Frozen):
    """The provider's API."""

    base_url: UrlTemplate
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    """Sent with every call; values may hold variables (subscription keys, versions)."""
    query: dict[str, str] = Field(default_factory=dict)
    rate_limit: RateLimit = Field(default_factory=RateLimit)
    rules: tuple[Rule, ...] = ()
    usage: tuple[TokenUsage, ...] = ()
    """Which calls spend tokens; the first that matches counts."""


def snake_case(name: str) -> str:
    """The variable's name of a parameter: ``realmId`` is ``{realm_id}`` in a template."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).lower()


class Environment(Frozen):
    """Another set of hosts (sandbox, region): replaces URL prefixes everywhere.

    It is chosen by the variable ``environment``.
    """

    id: Id
    label: str
    replaces: dict[UrlTemplate, UrlTemplate]
    """URL prefix to URL prefix."""
    hosts: tuple[HostPattern, ...] = ()


class McpServer(Frozen):
    """A remote MCP server of the provider."""

    url: UrlTemplate
    resource: UrlTemplate | None = None
    authorization_url: UrlTemplate | None = None
    token_url: UrlTemplate | None = None
    registration_url: UrlTemplate | None = None
    client_registration: Literal["dynamic", "metadata_document", "pre_registered"] | None = None
