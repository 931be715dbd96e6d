"""References to a key in Vault, taken apart.

    vault:kv/data/aura/master-keys#m2       field m2 of the secret aura/master-keys (KV version 2)
    vault:transit/keys/aura#m2.vault:v1:…   m2, wrapped by the transit key aura

What stands before ``/data/`` or ``/keys/`` is the path where the engine is mounted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from aura_core.errors import ConfigurationError

__all__ = ["Place", "Wrapped", "field_of", "place_of", "wrapped_of"]

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH = rf"{_SEGMENT}(?:/{_SEGMENT})*"
# The mount is the shortest that fits: a path may hold a folder "data" of its own.
_KV = re.compile(rf"vault:(?P<mount>{_SEGMENT}(?:/{_SEGMENT})*?)/data/(?P<path>{_PATH})", re.ASCII)
_TRANSIT = re.compile(
    rf"vault:(?P<mount>{_SEGMENT}(?:/{_SEGMENT})*?)/keys/(?P<path>{_SEGMENT})", re.ASCII
)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_CIPHERTEXT = re.compile(r"vault:v[1-9][0-9]{0,8}:[A-Za-z0-9+/]{1,8192}={0,2}", re.ASCII)
_FORMS = "It is vault:<mount>/data/<path>#<field> or vault:<mount>/keys/<key>#<id>.<ciphertext>."


@dataclass(frozen=True, kw_only=True)
class Place:
    """A secret of KV version 2 (``path``), or a key of transit (``path`` is its name)."""

    engine: Literal["kv", "transit"]
    mount: str
    path: str

    @property
    def api_path(self) -> str:
        """As a policy names it."""
        return f"{self.mount}/{'data' if self.engine == 'kv' else 'keys'}/{self.path}"


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A key that transit wrapped: its id, and what transit answered."""

    name: str
    ciphertext: str


def place_of(text: str) -> Place:
    """Reads what stands before the ``#``. Raises :class:`ConfigurationError`."""
    if found := _KV.fullmatch(text):
        return Place(engine="kv", mount=found["mount"], path=found["path"])
    if found := _TRANSIT.fullmatch(text):
        return Place(engine="transit", mount=found["mount"], path=found["path"])
    # The text is not repeated: a mistyped entry of a keyring may hold key material.
    raise ConfigurationError("A reference to Vault has another form.", hint=_FORMS)


def field_of(fragment: str) -> str:
    """The field of a KV secret, which is the key's id. Raises :class:`ConfigurationError`."""
    if not _NAME.fullmatch(fragment):
        raise ConfigurationError("A reference to Vault names no field.", hint=_FORMS)
    return fragment


def wrapped_of(fragment: str) -> Wrapped:
    """What transit wrapped. Raises :class:`ConfigurationError`."""
    name, _, ciphertext = fragment.partition(".")
    if not _NAME.fullmatch(name) or not _CIPHERTEXT.fullmatch(ciphertext):
        raise ConfigurationError("A reference to Vault holds no wrapped key.", hint=_FORMS)
    return Wrapped(name=name, ciphertext=ciphertext)
