"""The contract of secret stores: where master keys can be kept instead of in the keyring's text."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SecretStore"]


class SecretStore(Protocol):
    """What a plugin's ``aura_secret_stores`` hook returns instances of. Its methods block."""

    scheme: str

    def fetch(self, reference: str) -> bytes:
        """The 32 bytes that the reference names or unwraps."""
        ...

    def keep(self, place: str, *, name: str, material: bytes) -> str:
        """Stores or wraps ``material``; answers the reference that ``fetch`` takes."""
        ...

    def check(self) -> None:
        """Raises what is wrong with the address, the login or the permissions."""
        ...
