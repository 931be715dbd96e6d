"""What the daemon is told: one file, a few variables, and where everything lies.

The file is ``{root}/etc/aura/vmd.json``. It holds nothing secret: the agent may read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from aura_core.errors import ConfigurationError
from aura_core.runtime import Readiness
from aura_core.wire import parse_public_keys

__all__ = ["Layout", "Listen", "Settings", "load_settings"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things lie below ``root``; ``/`` on a machine, a directory for local machines."""

    root: Path

    @property
    def settings_file(self) -> Path:
        return self.root / "etc/aura/vmd.json"

    @property
    def join_token(self) -> Path:
        return self.root / "etc/aura/join-token"

    @property
    def state(self) -> Path:
        """The daemon's own, 0700: nobody else reads below it."""
        return self.root / "var/lib/aura"

    @property
    def skills_archive(self) -> Path:
        return self.state / "skills.tar.xz"

    @property
    def skills(self) -> Path:
        return self.root / "var/lib/agent/skills"

    @property
    def run(self) -> Path:
        return self.root / "run/aura"

    @property
    def broker_socket(self) -> Path:
        return self.run / "broker.sock"

    @property
    def listen_file(self) -> Path:
        """Says on which address the daemon's HTTP really listens."""
        return self.run / "listen.json"

    @property
    def enrolled_file(self) -> Path:
        """Exists once the daemon is enrolled: the agent's units wait for it."""
        return self.run / "enrolled"


class _Value(BaseModel):
    # Keys that this version does not know are passed over: the file is written by a control plane
    # that may be newer than the daemon in the machine's image.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Listen(_Value):
    """Where the daemon's HTTP listens; only loopback, the machine's web server is in front."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0

    @field_validator("host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if host not in _LOOPBACK:
            raise ValueError("is not a loopback address")
        return host


class _Runtime(_Value):
    readiness: Readiness | None = None


class Settings(_Value):
    """The daemon's settings. ``user`` and ``agent_user`` are names, uids, or ``uid:gid``."""

    root: Path
    instance_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$")]
    control_url: str
    control_public_keys: Mapping[str, bytes]
    listen: Listen = Listen()
    user: str = "aura"
    """Whom the daemon becomes when it is started as root."""
    agent_user: str = "agent"
    """Whose processes may use the broker."""
    runtime: _Runtime = _Runtime()

    @field_validator("control_url")
    @classmethod
    def _secure(cls, url: str) -> str:
        # The join token goes there in clear, so plain http is for the same machine only.
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not (local or parts.scheme == "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("is not an https URL (http is for loopback only)")
        return url.rstrip("/")

    @field_validator("control_public_keys", mode="before")
    @classmethod
    def _keys(cls, keys: Any) -> Any:
        if not isinstance(keys, Mapping):
            raise ValueError("is not a mapping of key ids to keys")
        try:
            return parse_public_keys({str(k): v for k, v in keys.items()})
        except ConfigurationError as error:
            raise ValueError(error.message) from None

    @property
    def layout(self) -> Layout:
        return Layout(root=self.root)


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read the file below ``AURA_ROOT`` (default ``/``).

    ``AURA_VMD_LISTEN`` (host:port), ``AURA_VMD_USER`` and ``AURA_AGENT_USER`` replace what the
    file says, for machines whose users and ports are only known where they run. Raises
    :class:`ConfigurationError` naming file and field.
    """
    root = Path(environment.get("AURA_ROOT") or "/")
    source = Layout(root=root).settings_file
    try:
        document = json.loads(source.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise ConfigurationError(f"{source} is not JSON.") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{source} is not a JSON object.")
    given = {name: value for name, value in document.items() if value is not None}
    given["root"] = root
    if listen := environment.get("AURA_VMD_LISTEN"):
        host, _, port = listen.rpartition(":")
        given["listen"] = {"host": host.strip("[]"), "port": port}
    for name, variable in (("user", "AURA_VMD_USER"), ("agent_user", "AURA_AGENT_USER")):
        if value := environment.get(variable):
            given[name] = value
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigurationError(f"{source}: {where}: {first['msg']}.") from None
