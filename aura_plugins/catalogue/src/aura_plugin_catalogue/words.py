"""Names for people, made of the names in the facts."""

from __future__ import annotations

__all__ = ["label"]

_SPELLINGS = {
    "api": "API", "id": "ID", "url": "URL", "sid": "SID", "scim": "SCIM", "uuid": "UUID",
    "dc": "data centre", "pod": "pod",
}  # fmt: skip


def label(name: str) -> str:
    """``api_key`` is "API key"."""
    words = " ".join(_SPELLINGS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]
