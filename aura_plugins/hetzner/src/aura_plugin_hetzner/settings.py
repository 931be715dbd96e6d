"""What the operator decides, from settings that begin with ``AURA_HETZNER_``.

hcloud's own variables (``HCLOUD_TOKEN``) are not read: a shell in which somebody administers
another project must not decide where machines are made.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from pydantic import SecretStr

from aura_core.errors import ConfigurationError

__all__ = ["REGIONS", "HetznerSettings"]

REGIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"us-east": ("ash",), "eu-central": ("nbg1", "fsn1")}
)
"""A user's region: the locations that serve it, tried in this order. A location's own name is
accepted as a region too."""

ENDPOINT = "https://api.hetzner.cloud/v1"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[A-Za-z0-9._-]{0,63})?")
_LARGEST_TOKEN = 1024


@dataclass(frozen=True, kw_only=True)
class HetznerSettings:
    """One Hetzner project and what may be made in it.

    ``most_monthly`` is the highest monthly price of a server with its IPv4 address, **net** (before
    VAT), by the currency in which the project is billed. ``types`` are tried in their order; where
    none is named, whatever has ``least_cores`` and ``least_memory`` (GB) is taken, the cheapest
    first. ``ssh_keys`` are names of keys in the project, or ``ssh_key_label`` selects them; port 22
    is open to ``ssh_from`` (CIDR) only, which is nobody by default.
    """

    token: SecretStr
    endpoint: str = ENDPOINT
    region: str = "eu-central"
    types: tuple[str, ...] = ()
    most_monthly: Mapping[str, Decimal] = field(
        default_factory=lambda: {"EUR": Decimal(25), "USD": Decimal(28)}
    )
    least_cores: int = 1
    least_memory: Decimal = Decimal(2)
    image: str = "debian-12"
    image_label: str = "aura-image"
    ssh_keys: tuple[str, ...] = ()
    ssh_key_label: str | None = None
    ssh_from: tuple[str, ...] = ()
    spread: bool = False
    keep_snapshots: bool = False

    def __post_init__(self) -> None:
        _need(_is_safe(self.endpoint), "ENDPOINT", "an address like https://api.hetzner.cloud/v1")
        _need(bool(_NAME.fullmatch(self.region)), "REGION", "a region such as us-east")
        _need(all(map(_NAME.fullmatch, self.types)), "TYPES", "a list such as cx23,cpx12")
        ceilings = self.most_monthly.values()
        _need(all(c.is_finite() and c > 0 for c in ceilings), "MAX_MONTHLY_EUR", "a price above 0")
        _need(bool(_NAME.fullmatch(self.image)), "IMAGE", "an image's name such as debian-12")
        for label in (self.image_label, self.ssh_key_label):
            known = label is None or bool(_LABEL.fullmatch(label))
            _need(known, "IMAGE_LABEL or AURA_HETZNER_SSH_KEY_LABEL", "a label such as key=value")
        for network in self.ssh_from:
            _need(_is_network(network), "SSH_FROM", "a list of networks such as 192.0.2.0/24")

    @classmethod
    def read(cls, settings: Mapping[str, str]) -> HetznerSettings | None:
        """From the host's settings; ``None`` where there is no token, which is to say that Hetzner
        is not used. Raises :class:`ConfigurationError`, never with the token."""

        def text(name: str) -> str:
            return settings.get(f"AURA_HETZNER_{name}", "").strip()

        def items(name: str) -> tuple[str, ...]:
            return tuple(part for part in re.split(r"[,\s]+", text(name)) if part)

        token = text("TOKEN") or _from_file(text("TOKEN_FILE"))
        if not token:
            return None
        if len(token) > _LARGEST_TOKEN or not token.isascii() or not token.isprintable():
            # It becomes a header: a line break in it would be another header.
            raise ConfigurationError("AURA_HETZNER_TOKEN is not one line of ASCII text.")
        ceilings = {"EUR": Decimal(25), "USD": Decimal(28)}
        for currency in ceilings:
            if written := text(f"MAX_MONTHLY_{currency}"):
                ceilings[currency] = _price(currency, written)
        return cls(
            token=SecretStr(token),
            endpoint=(text("ENDPOINT") or ENDPOINT).rstrip("/"),
            region=text("REGION").lower() or "eu-central",
            types=tuple(name.lower() for name in items("TYPES")),
            most_monthly=ceilings,
            image=text("IMAGE") or "debian-12",
            image_label=text("IMAGE_LABEL") or "aura-image",
            ssh_keys=items("SSH_KEYS"),
            ssh_key_label=text("SSH_KEY_LABEL") or None,
            ssh_from=items("SSH_FROM"),
            spread=_yes("SPREAD", text("SPREAD")),
            keep_snapshots=_yes("KEEP_SNAPSHOTS", text("KEEP_SNAPSHOTS")),
        )


def _need(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise ConfigurationError(f"AURA_HETZNER_{name} is not {what}.")


def _from_file(path: str) -> str:
    if not path:
        return ""
    try:
        with Path(path).open(encoding="ascii") as file:
            return file.read(_LARGEST_TOKEN + 2).strip()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} does not hold one line of text.") from None


def _price(currency: str, written: str) -> Decimal:
    try:
        return Decimal(written)
    except InvalidOperation:
        message = f"AURA_HETZNER_MAX_MONTHLY_{currency} is not a price such as 25."
        raise ConfigurationError(message) from None


def _yes(name: str, written: str) -> bool:
    word = written.lower()
    _need(word in ("", "true", "yes", "1", "false", "no", "0"), name, "yes or no")
    return word in ("true", "yes", "1")


def _is_network(text: str) -> bool:
    try:
        return bool(ipaddress.ip_network(text))
    except ValueError:
        return False


def _is_safe(address: str) -> bool:
    """Whether the token may go there: https, or plain http on this machine."""
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        return False
    if not host or url.query or url.fragment or url.username or url.password:
        return False
    if url.scheme == "https":
        return True
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return url.scheme == "http" and loopback
