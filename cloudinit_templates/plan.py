"""What a machine is composed from. Values that reach a file are checked here, by pattern."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
)

from aura_core.runtime import RuntimePlan
from aura_core.skills import VmSkillManifest

__all__ = ["DaemonArchive", "Plan"]

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Hostname = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""32 bytes as base64url without padding."""

_URL = re.compile(r"\Ahttps?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?\Z")
_SITE = re.compile(
    r"\A(?P<scheme>https?://)?(?P<host>[a-z0-9.-]+|\[[0-9a-f:]+\])?(:(?P<port>\d{1,5}))?\Z"
)
_LABELS = re.compile(
    r"\A([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z"
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TOKEN = re.compile(r"\A[A-Za-z0-9_-]{20,128}\Z")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if not _URL.match(url) or not parts.hostname or (parts.port or 1) > 65535 or len(url) > 512:
        raise ValueError("is not a plain http or https address")
    return url


class DaemonArchive(_Value):
    """Where a machine gets the daemon from: a tar of wheels (``pip``'s among them), by its hash."""

    url: Annotated[str, StringConstraints(max_length=512)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        return _checked_url(url)


class Plan(_Value):
    """One agent's machine. Raises :class:`pydantic.ValidationError`, without the values."""

    instance_id: Identifier
    agent_id: Identifier
    hostname: Hostname
    control_url: str
    control_public_keys: Annotated[
        Mapping[Identifier, PublicKey], Field(min_length=1, max_length=16)
    ]
    """Ed25519 keys by their ``kid``: what the daemon verifies the control plane with."""
    join_token: SecretStr
    """The one secret that user-data may hold: single use, minutes to live."""
    runtime: RuntimePlan
    skills: Annotated[tuple[VmSkillManifest, ...], Field(max_length=1000)] = ()
    daemon: Literal["preinstalled"] | DaemonArchive = "preinstalled"
    site: str
    """Caddy's site address: a host name, ``host:port`` or with a scheme."""

    @field_validator("control_url")
    @classmethod
    def _private(cls, url: str) -> str:
        # The join token goes there, so plain http is for the same machine only.
        parts = urlsplit(_checked_url(url))
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("is not an https address (http is for loopback only)")
        return url

    @field_validator("join_token")
    @classmethod
    def _token(cls, token: SecretStr) -> SecretStr:
        if not _TOKEN.match(token.get_secret_value()):
            raise ValueError("is not 20 to 128 characters of base64url")
        return token

    @field_validator("site")
    @classmethod
    def _address(cls, site: str) -> str:
        match = _SITE.match(site)
        if not site or match is None or len(site) > 253:
            raise ValueError("is not a host name, host:port or either with http:// or https://")
        host, port = match["host"], match["port"]
        if host is None and port is None:
            raise ValueError("names neither host nor port")
        if port is not None and not 1 <= int(port) <= 65535:
            raise ValueError("has a port that does not exist")
        if host is not None and host.startswith("["):
            ipaddress.IPv6Address(host.strip("[]"))
        elif host is not None and not _LABELS.match(host):
            raise ValueError("has a host name that is none")
        return site

    @property
    def site_port(self) -> int | None:
        """The port that the site names, if any."""
        match = _SITE.match(self.site)
        return int(match["port"]) if match and match["port"] else None

    @property
    def site_encrypted(self) -> bool:
        """Whether Caddy will serve the site by TLS."""
        return not self.site.startswith("http://") and (
            self.site.startswith("https://") or self.site_port != 80
        )
