"""Where Vault is and how to log in, from settings that begin with ``AURA_VAULT_``.

Vault's own variables (``VAULT_ADDR``, ``VAULT_TOKEN`` …) and ``~/.vault-token`` are not read: a
shell in which somebody administers another Vault must not decide where master keys come from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aura_core.errors import ConfigurationError

__all__ = ["VaultSettings"]

_LARGEST_SECRET = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class VaultSettings:
    """Either ``token_file``, or ``role_id`` and ``secret_id_file``. Files are read at each login:
    an agent that renews them needs no restart."""

    address: str
    token_file: Path | None = None
    role_id: str | None = None
    secret_id_file: Path | None = None
    approle_mount: str = "approle"
    namespace: str | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not _is_safe(self.address):
            raise ConfigurationError(
                "AURA_VAULT_ADDR is not an address like https://vault.example.com:8200.",
                hint="Plain http is for loopback addresses only; there is no path, user or query.",
            )
        approle = self.role_id is not None or self.secret_id_file is not None
        if (self.token_file is not None) == approle:
            raise ConfigurationError(
                "Vault needs one way to log in.",
                hint="Set AURA_VAULT_TOKEN_FILE, or AURA_VAULT_ROLE_ID and "
                "AURA_VAULT_SECRET_ID_FILE.",
            )
        if approle and (self.role_id is None or self.secret_id_file is None):
            raise ConfigurationError(
                "AURA_VAULT_ROLE_ID and AURA_VAULT_SECRET_ID_FILE belong together."
            )
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigurationError(f"AURA_VAULT_CA names {self.ca_file}, which is no file.")

    @classmethod
    def read(cls, settings: Mapping[str, str]) -> VaultSettings:
        """From the host's settings. Raises :class:`ConfigurationError`."""

        def text(name: str) -> str | None:
            return settings.get(f"AURA_VAULT_{name}", "").strip() or None

        def path(name: str) -> Path | None:
            value = text(name)
            return None if value is None else Path(value)

        address = text("ADDR")
        if address is None:
            raise ConfigurationError(
                "The keyring refers to Vault, whose address is not set.",
                hint="Set AURA_VAULT_ADDR.",
            )
        return cls(
            address=address.rstrip("/"),
            token_file=path("TOKEN_FILE"),
            role_id=text("ROLE_ID"),
            secret_id_file=path("SECRET_ID_FILE"),
            approle_mount=text("APPROLE_MOUNT") or "approle",
            namespace=text("NAMESPACE"),
            ca_file=path("CA"),
        )

    def secret(self) -> str:
        """What the token file or the file of the secret id holds now.

        Raises :class:`ConfigurationError`, with the file's name and nothing of its content.
        """
        path = self.token_file or self.secret_id_file
        assert path is not None  # noqa: S101 - construction has seen to it
        try:
            with path.open(encoding="ascii") as file:
                value = file.read(_LARGEST_SECRET + 1).strip()
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            value = ""
        # It becomes a header: a line break in it would be another header.
        if not value or len(value) > _LARGEST_SECRET or not value.isprintable():
            raise ConfigurationError(f"{path} does not hold one line of text.")
        return value


def _is_safe(address: str) -> bool:
    try:
        url = urlsplit(address)
        bare = not (url.path or url.query or url.fragment or url.username or url.password)
        host, _ = url.hostname, url.port
    except ValueError:
        return False
    if not host or not bare:
        return False
    return url.scheme == "https" or (url.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
