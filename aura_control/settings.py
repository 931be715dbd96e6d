"""The operator's settings: environment variables that begin with ``AURA_``.

The clients that the operator registered at providers are not here: each manifest names the
environment variables that hold them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aura_core.errors import ConfigurationError
from aura_core.manifest import is_loopback
from aura_core.permissions import canonical_host

__all__ = ["Settings", "load_settings"]


def _home() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "aura"


class Settings(BaseSettings):
    """How this control plane runs. ``load_settings`` turns what is wrong into a message."""

    model_config = SettingsConfigDict(
        env_prefix="AURA_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    data_dir: Path = Field(default_factory=_home)
    """Databases, keys and locks; for its owner only."""
    database_url: SecretStr | None = None
    """``sqlite:////file`` or ``postgresql://``; without one, ``aura.db`` in the data directory."""
    durable_url: SecretStr | None = None
    """Where workflows are kept; without one, ``durable.db`` in the data directory."""
    public_url: str = "http://127.0.0.1:8700"
    """Where browsers and machines reach this control plane; redirect URIs begin with it."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8700

    master_keys: SecretStr | None = None
    """The keyring's text (``m1:active:...``), instead of a file."""
    master_keys_file: Path | None = None
    """Without one, ``master-keys`` in the data directory."""
    signing_key_file: Path | None = None
    """The Ed25519 key that machines know; without one, ``signing-key`` in the data directory."""

    manifests: Annotated[tuple[Path, ...], NoDecode] = ()
    """Directories of further manifests, separated like ``PATH``."""
    allow_loopback_http: bool = False
    twins: Annotated[Mapping[str, str], NoDecode] = Field(default_factory=dict)
    """Providers that are played by a twin: ``google=http://127.0.0.1:9000,...``."""

    private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names of providers inside the operator's network, separated by commas: only these may
    resolve to private addresses, here and on machines."""
    audit_checkpoints: str | None = None
    """Where the audit log's signed checkpoints go: ``file:///directory``, ``s3://bucket/prefix``.
    Without one, a directory in the data directory, which protects from nobody who has both."""

    metrics_token: SecretStr | None = None
    """What a scraper of ``/metrics`` sends as bearer token. Without one, metrics are shown only
    where the public address is this machine's own."""
    executor_id: str = "local"
    """The name of this process among those that share the databases; stable over restarts."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat_seconds: Annotated[int, Field(ge=1, le=3600)] = 15
    join_seconds: Annotated[int, Field(ge=60, le=86400)] = 900
    """How long a new machine has to enrol."""
    event_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long events are kept for those who come back and read on (days). The audit log has a
    time of its own."""
    default_compute: str = "local"
    default_runtime: str = "basic"

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http(s)://host[:port]")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            raise ValueError("must be an origin: scheme, host and port only")
        # Over plain http tokens and cookies would cross the network readable.
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError("must be https, except on a loopback address")
        return value.rstrip("/")

    @field_validator("audit_checkpoints")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"[a-z][a-z0-9-]*://.", value):
            raise ValueError("must be a URL such as file:///directory or s3://bucket/prefix")
        return value

    @field_validator("manifests", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator("private_hosts", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(canonical_host(part.strip()) for part in value.split(",") if part.strip())

    @field_validator("twins", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): origin.strip() for name, _, origin in pairs}

    @field_validator("twins")
    @classmethod
    def _loopback_only(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        # A twin gets real authorization codes and keys if somebody uses them with it: it may
        # only be a process on this machine.
        for name, origin in value.items():
            if not is_loopback(urlsplit(origin).hostname or ""):
                raise ValueError(f"{name}: a twin must be on a loopback address")
        return value

    @property
    def secure(self) -> bool:
        """Whether browsers come by https."""
        return self.public_url.startswith("https:")

    @property
    def local(self) -> bool:
        """Whether it is reached on this machine only."""
        return is_loopback(urlsplit(self.public_url).hostname or "")

    @property
    def database(self) -> str:
        """The database's URL."""
        return _url(self.database_url, self.data_dir / "aura.db")

    @property
    def durable(self) -> str:
        """The URL of the workflows' database."""
        return _url(self.durable_url, self.data_dir / "durable.db")

    @property
    def checkpoint_place(self) -> str:
        """Where checkpoints go."""
        own = (self.data_dir / "audit-checkpoints").absolute()
        return self.audit_checkpoints or own.as_uri()

    @property
    def keyring_path(self) -> Path:
        """The file with the master keys."""
        return self.master_keys_file or self.data_dir / "master-keys"

    @property
    def signing_key_path(self) -> Path:
        """The file with the signing key."""
        return self.signing_key_file or self.data_dir / "signing-key"


def load_settings(**values: Any) -> Settings:
    """Settings from ``values`` and the environment. Raises ConfigurationError for the first wrong
    one, by its variable's name and without its value."""
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"][:1]).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"AURA_{name}: {reason}.") from None


def _url(given: SecretStr | None, file: Path) -> str:
    return given.get_secret_value() if given else f"sqlite:///{file.absolute()}"
