"""How an API token is recognised."""

from __future__ import annotations

import hashlib

__all__ = ["token_hash"]


def token_hash(text: str) -> str:
    """What the database knows of a token: SHA-256 in hexadecimal. A token has 256 random bits, so
    there is nothing to guess that a slow hash would protect."""
    return hashlib.sha256(text.encode()).hexdigest()
