"""Providers as the services use them: the integration's code, and the context for a step of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from aura_control.db.connection import Connection
from aura_control.ports import Clock, OAuthClients
from aura_core.adapter import Context
from aura_core.errors import AuraError, Conflict, InvalidInput
from aura_core.manifest import AuthMethod, Manifest

if TYPE_CHECKING:
    from aura_core.registry import Integration, Registry

__all__ = ["Providers", "auth_id", "named_method"]


def auth_id(method: AuthMethod) -> str:
    """The name of a way to authenticate."""
    return method.id or method.strategy


def named_method(manifest: Manifest, name: str) -> AuthMethod:
    """The way to authenticate of that name. Raises InvalidInput."""
    try:
        return manifest.auth_method(name)
    except KeyError:
        known = ", ".join(auth_id(method) for method in manifest.auth)
        raise InvalidInput(
            f"{manifest.name} has no such way to connect.",
            fields={"auth": f"must be one of: {known}"},
        ) from None


class Providers:
    """Opens integrations and gives their steps what they need."""

    def __init__(
        self,
        *,
        registry: Registry,
        http: httpx.AsyncClient,
        clients: OAuthClients,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._http = http
        self._clients = clients
        self._clock = clock

    def open(self, provider: str) -> Integration:
        """The integration, ready for use. Raises NotFound, PluginError, and Conflict for one that
        is announced but not there yet."""
        manifest = self._registry.get(provider)
        if manifest.status == "coming_soon":
            raise Conflict(f"{manifest.name} cannot be connected yet: {manifest.status_reason}")
        return self._registry.open(provider)

    def serves_machines(self, provider: str) -> bool:
        """Whether anything of a connection goes to machines: only a skill can use it there.

        Of an integration that is not here nothing is known, and its plugin may come back: what it
        would serve stays wanted.
        """
        try:
            return self._registry.get(provider).skill is not None
        except AuraError:
            return True

    def context(
        self, manifest: Manifest, method: AuthMethod, variables: Mapping[str, str]
    ) -> Context:
        """What a step is given. Raises ConfigurationError without the operator's client."""
        return Context(
            manifest=manifest,
            method=method,
            http=self._http,
            now=self._clock,
            client=self._clients.client(method),
            variables=variables,
        )

    def of(self, connection: Connection) -> tuple[Integration, Context]:
        """The integration and the context of a connection.

        Raises InvalidInput when the manifest no longer has the way that it was made by.
        """
        return self.made_by(connection.provider, connection.auth_method, connection.config)

    def made_by(
        self, provider: str, auth_method: str, config: Mapping[str, Any]
    ) -> tuple[Integration, Context]:
        """As ``of``, for what was made in a way that the connection may not have any more."""
        integration = self._registry.open(provider)
        method = named_method(integration.manifest, auth_method)
        variables = {name: str(value) for name, value in config.items()}
        return integration, self.context(integration.manifest, method, variables)
