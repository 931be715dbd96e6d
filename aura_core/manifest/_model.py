"""The manifest: the static facts of an integration, readable without importing its code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, StringConstraints, ValidationError, model_validator

from aura_core.manifest._auth import AuthMethod, ClientCredentialsAuth, CodeAuth, OAuth2Auth
from aura_core.manifest._base import (
    Frozen,
    HostPattern,
    Id,
    UrlTemplate,
    template_variables,
)
from aura_core.manifest._request import (
    Api,
    Call,
    Environment,
    McpServer,
    Skill,
    ToolFacts,
    snake_case,
)

CORE_FIELDS = frozenset(
    {"access_token", "refresh_token", "api_key", "client_id", "client_secret", "signed_jwt",
     "user_agent", "timestamp", "random", "username", "password", "code", "redirect_uri"}
)  # fmt: skip
"""Variables that exist without being declared."""


class Manifest(Frozen):
    """Facts of one integration. Every key is documented where it is declared."""

    manifest_version: Literal[1] = 1
    id: Id
    """Equals ``integrations.provider``."""
    name: Annotated[str, StringConstraints(min_length=1, max_length=80)]
    category: Id
    description: str = ""
    docs_url: UrlTemplate | None = None
    website_url: UrlTemplate | None = None
    status: Literal["available", "coming_soon"] = "available"
    status_reason: str | None = None
    minimum_core: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+(\.\d+)?$")] = "0.1"
    family: Id | None = None
    tags: tuple[str, ...] = ()
    single_source: tuple[str, ...] = ()
    """Dotted keys of facts that only one independent source names."""
    tools_module: Annotated[str, StringConstraints(pattern=r"^[\w.]+$")] | None = None
    """The module that defines the tools; it imports nothing but the standard library, pydantic and
    ``aura_core.tools``, because it is copied to machines as it is."""

    hosts: tuple[HostPattern, ...]
    """The only hosts that may get the credential."""
    api: Api
    auth: Annotated[tuple[AuthMethod, ...], Field(min_length=1)]
    """Best first; the first is used when the user does not choose."""
    tools: tuple[ToolFacts, ...] = ()
    skill: Skill | None = None
    environments: tuple[Environment, ...] = ()
    mcp: tuple[McpServer, ...] = ()

    relocations: Mapping[str, str] = Field(default_factory=dict, exclude=True)
    """Host to origin, set by :meth:`relocated` only: manifests may not name it."""
    private_hosts: tuple[str, ...] = Field(default=(), exclude=True)
    """Names that may resolve to private addresses, set by :meth:`with_private_hosts` only."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        ids = [method.id or method.strategy for method in self.auth]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"auth: two methods are called {name!r}; give each an id")
        for method in self.auth:
            known = CORE_FIELDS | {v.name for v in method.variables}
            known |= {f.name for f in getattr(method, "fields", ())}
            known |= {n for call in method.discover for n in call.metadata}
            if isinstance(method, OAuth2Auth):
                known |= set(method.token.response.metadata)
                known |= {snake_case(name) for name in method.authorization.callback_metadata}
            for step in (*getattr(method, "steps", ()), *getattr(method, "after_exchange", ())):
                known |= {*step.captures, *step.capture_headers}
            self._check_hosts(method)
            self._check_placements(method)
            unknown = sorted(set(self._templates(method)) - known)
            if unknown:
                raise ValueError(
                    f"auth {method.id or method.strategy}: "
                    f"{{{unknown[0]}}} is not declared in variables"
                )
        if self.status == "coming_soon" and not self.status_reason:
            raise ValueError("coming_soon needs status_reason")
        names = [tool.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("tools: two tools have the same name")
        if self.tools and self.tools_module is None:
            raise ValueError("tools needs tools_module")
        self._check_environments()
        return self

    def _check_environments(self) -> None:
        """Each can be chosen, and is a manifest as good as this one: its hosts too are checked
        when it is read, not when somebody's credential is on its way there."""
        ids = [environment.id for environment in self.environments]
        offered = [v.choices for m in self.auth for v in m.variables if v.name == "environment"]
        if ids and (not offered or any(sorted(choices) != sorted(ids) for choices in offered)):
            raise ValueError(
                "environments: are chosen by a variable named environment, whose choices are "
                "their ids, each once"
            )
        for name in ids:
            try:
                self.in_environment(name)
            except ValidationError as error:
                said = error.errors(include_url=False, include_input=False)[0]["msg"]
                raise ValueError(f"environments {name}: {said}") from None

    def _templates(self, method: AuthMethod) -> list[str]:
        """Names of all variables in templates that this method resolves."""
        texts: list[str] = [*self.hosts, *_texts(self.api.model_dump(include=_API_TEMPLATES))]
        # Everything of the method but its words for people; what holds no {variable} adds nothing.
        texts += _texts(method.model_dump(exclude={"label", "fields", "variables", "facts"}))
        return [name for text in texts for name in template_variables(text)]

    def _check_hosts(self, method: AuthMethod) -> None:
        """Calls that carry the credential go to hosts that ``hosts`` names, like all others; and
        what names a host is a declared variable, because only those have their values checked."""
        declared = {variable.name for variable in method.variables}
        base = self.api.base_url
        start = base.partition("}")[0] + "}" if base.startswith("{") else urlsplit(base).netloc
        first = next((v for v in method.variables if f"{{{v.name}}}" == start), None)
        if first is not None and not first.url:
            raise ValueError(
                f"auth {method.id or method.strategy}: {start} begins api.base_url, so it holds "
                "scheme and host and needs url = true"
            )
        for pattern in (*self.hosts, start):
            for name in template_variables(pattern):
                if name not in declared:
                    raise ValueError(
                        f"auth {method.id or method.strategy}: {{{name}}} names a host "
                        "and must be one of variables"
                    )
        calls: list[Call | None] = [method.verify, *method.discover]
        if isinstance(method, OAuth2Auth):
            calls.append(method.userinfo)
        for call in calls:
            if call is None or call.url.startswith("{"):
                continue
            host = urlsplit(call.url).netloc
            wild = any(host.partition(".")[2] == h[2:] for h in self.hosts if h.startswith("*."))
            if host not in self.hosts and not wild:
                raise ValueError(
                    f"auth {method.id or method.strategy}: {host} gets the credential "
                    "but is not in hosts"
                )

    def _check_placements(self, method: AuthMethod) -> None:
        """A placement holds what the connection keeps secret, and maybe the operator's client."""
        if isinstance(method, CodeAuth):
            return  # its adapter knows what it places
        fields = {field.name for field in getattr(method, "fields", ())}
        if method.strategy in _WITH_TOKENS:
            fields.add("access_token")
        if isinstance(method, OAuth2Auth):
            fields |= {"client_id", "client_secret"}
        for name in method.placed:
            if name not in fields:
                raise ValueError(
                    f"auth {method.id or method.strategy}: placements: {{{name}}} is no part of "
                    "the credential; variables can stand in api.headers and api.query"
                )
        oauth = isinstance(method, OAuth2Auth | ClientCredentialsAuth)
        if oauth and self.skill is not None and "client_secret" in method.placed:
            raise ValueError(
                f"auth {method.id or method.strategy}: placements: a skill's machine would "
                "hold the OAuth client's secret"
            )

    def auth_method(self, auth_id: str | None = None) -> AuthMethod:
        """The named way to authenticate, or the first. Raises ``KeyError`` for an unknown one."""
        if auth_id is None:
            return self.auth[0]
        for method in self.auth:
            if (method.id or method.strategy) == auth_id:
                return method
        raise KeyError(auth_id)

    def in_environment(self, environment: str | None) -> Manifest:
        """The same integration at another set of hosts; ``None`` is the usual one.

        Raises ``KeyError`` for an environment that is not declared.
        """
        if environment is None:
            return self
        chosen = {e.id: e for e in self.environments}[environment]
        document = self.model_dump(exclude={"environments"})
        moved = Manifest.model_validate(
            {**_replace(document, chosen.replaces), "hosts": chosen.hosts or self.hosts}
        )
        return moved.model_copy(
            update={
                "relocations": self.relocations,
                "private_hosts": self.private_hosts,
                "environments": self.environments,
            }
        )

    def relocated(self, origin: str) -> Manifest:
        """The same integration served from ``origin`` (a provider twin), host by host.

        ``https://HOST/path`` becomes ``{origin}/HOST/path``, whatever the host: one that a template
        yields must not be the way back to the real provider. The credential goes to that origin
        instead of the provider's hosts, so only an operator's setting may ask for it.
        """
        return self.model_copy(update={"relocations": {"*": origin.rstrip("/")}})

    def with_private_hosts(self, names: Iterable[str]) -> Manifest:
        """The same integration where these names may lie inside the operator's network."""
        return self.model_copy(update={"private_hosts": tuple(names)})

    def locate(self, url: str) -> str:
        """Where to send a request for ``url``: itself, unless this manifest is relocated."""
        return relocate(self.relocations, url)


def relocate(relocations: Mapping[str, str], url: str) -> str:
    """``url`` at its relocated place; ``relocations`` has a host or ``*`` to an origin."""
    parts = urlsplit(url)
    origin = relocations.get(parts.netloc)
    if origin is None and "*" in relocations:
        origin = f"{relocations['*']}/{parts.netloc}"
    if origin is None:
        return url
    tail = urlunsplit(("", "", parts.path, parts.query, parts.fragment))
    return origin + (tail if tail.startswith(("/", "?", "#")) or not tail else f"/{tail}")


_WITH_TOKENS = {"oauth2", "oauth2_client_credentials", "token_exchange"}
_API_TEMPLATES = {"base_url", "headers", "query"}


def _texts(value: Any) -> list[str]:
    """All texts in a document, at any depth."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return []


def _replace(value: Any, prefixes: Mapping[str, str]) -> Any:
    """The document with URL prefixes replaced, the longest first."""
    if isinstance(value, Mapping):
        return {key: _replace(inner, prefixes) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(inner, prefixes) for inner in value]
    if isinstance(value, str):
        for old in sorted(prefixes, key=len, reverse=True):
            if value.startswith(old):
                return prefixes[old] + value[len(old) :]
    return value
