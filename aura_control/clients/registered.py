"""The operator's OAuth clients, in the environment variables that the manifests name."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from aura_core.adapter import OAuthClientSettings
from aura_core.errors import ConfigurationError
from aura_core.manifest import AuthMethod, OAuth2Auth

__all__ = ["RegisteredClients"]


class RegisteredClients:
    """``OAuthClients`` over an environment that is read when a client is needed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def client(self, method: AuthMethod) -> OAuthClientSettings | None:
        """See ``ports.OAuthClients``."""
        if not isinstance(method, OAuth2Auth):
            return None
        secret_env = method.client.secret_env
        return OAuthClientSettings(
            client_id=self._value(method.client.id_env),
            client_secret=None if secret_env is None else SecretStr(self._value(secret_env)),
        )

    def _value(self, name: str) -> str:
        value = self._environment.get(name, "")
        if not value:
            raise ConfigurationError(
                "This provider is not set up here.",
                hint=f"The operator registers an OAuth client there and sets {name}.",
            )
        return value
