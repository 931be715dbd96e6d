"""The manifest: the static facts of an integration, readable without importing its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, StringConstraints, model_validator

from aura_core.manifest._auth import AuthMethod, OAuth2Auth
from aura_core.manifest._base import (
    VARIABLE,
    Frozen,
    HostPattern,
    Id,
    UrlTemplate,
    template_variables,
)
from aura_core.manifest._request import Api, Environment, McpServer, Skill, ToolFacts

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
                known |= set(method.token.response.metadata) | set(
                    method.authorization.callback_metadata
                )
                known |= {n for step in method.after_exchange for n in step.captures}
            for step in getattr(method, "steps", ()):
                known |= {*step.captures, *step.capture_headers}
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
        return self

    def _templates(self, method: AuthMethod) -> list[str]:
        """Names of all variables in templates that this method resolves."""
        found = list(template_variables(self.api.base_url))
        for value in (*self.api.headers.values(), *self.api.query.values(), *self.hosts):
            found += template_variables(value)
        for placement in method.placements:
            for text in (placement.format, placement.username, placement.password):
                found += template_variables(text)
        if isinstance(method, OAuth2Auth):
            found += template_variables(method.authorization.url)
            found += template_variables(method.token.url)
            for text in method.authorization.params.values():
                found += template_variables(text)
        return found

    def auth_method(self, auth_id: str | None = None) -> AuthMethod:
        """The named way to authenticate, or the first. Raises ``KeyError`` for an unknown one."""
        if auth_id is None:
            return self.auth[0]
        for method in self.auth:
            if (method.id or method.strategy) == auth_id:
                return method
        raise KeyError(auth_id)

    def relocated(self, origin: str) -> Manifest:
        """The same integration served from ``origin`` (a provider twin), host by host.

        ``https://HOST/path`` becomes ``{origin}/HOST/path``. The credential goes to that origin
        instead of the provider's hosts, so only an operator's setting may ask for it.
        """
        hosts = {
            urlsplit(VARIABLE.sub("v", url)).netloc
            for url in self._all_urls()
            if url.startswith("http")
        }
        table = {host: f"{origin.rstrip('/')}/{host}" for host in sorted(hosts | set(self.hosts))}
        return self.model_copy(update={"relocations": table})

    def locate(self, url: str) -> str:
        """Where to send a request for ``url``: itself, unless this manifest is relocated."""
        parts = urlsplit(url)
        target = self.relocations.get(parts.netloc)
        if target is None:
            return url
        tail = urlunsplit(("", "", parts.path, parts.query, parts.fragment))
        return target + (tail if tail.startswith(("/", "?", "#")) or not tail else f"/{tail}")

    def _all_urls(self) -> list[str]:
        urls = [self.api.base_url]
        for method in self.auth:
            urls += [call.url for call in (method.verify, *method.discover) if call is not None]
            if method.revocation is not None:
                urls.append(method.revocation.url)
            urls += [step.url for step in getattr(method, "steps", ())]
            token = getattr(method, "token", None)
            if token is not None:
                urls.append(token.url)
            if isinstance(method, OAuth2Auth):
                urls.append(method.authorization.url)
                if method.refresh.url is not None:
                    urls.append(method.refresh.url)
                if method.userinfo is not None:
                    urls.append(method.userinfo.url)
                urls += [step.url for step in method.after_exchange]
        return urls
