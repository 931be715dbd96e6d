"""The rules that every field of a message obeys, and the one way to read a message's JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from aura_core.encoding import load_object, unb64url
from aura_core.errors import MalformedMessage, MessageTooLarge

__all__ = [
    "MAX_MESSAGE_BYTES",
    "check_kid",
    "check_millis",
    "check_subject",
    "exactly",
    "key_id",
    "read_bytes",
    "read_message",
]

MAX_MESSAGE_BYTES = 64 * 1024
"""The largest message that either side sends or reads, as JSON."""

_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", re.ASCII)
_KID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_LARGEST_NUMBER = 2**53 - 1


def key_id(public: bytes) -> str:
    """The id of a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def check_subject(name: str, value: object) -> None:
    """Ids name files on the machine: no separator, no leading dot, at most 128 characters."""
    if not isinstance(value, str) or not _SUBJECT.fullmatch(value):
        raise MalformedMessage(f"{name} is not an id of letters, digits and . _ : @ -.")


def check_kid(name: str, value: object) -> None:
    if not isinstance(value, str) or not _KID.fullmatch(value):
        raise MalformedMessage(f"{name} is not 16 hexadecimal digits.")


def check_millis(name: str, value: object, *, least: int = 0) -> None:
    """Whole numbers stay exact in every JSON reader (RFC 8259 §6). A bool is not a number."""
    if type(value) is not int or not least <= value <= _LARGEST_NUMBER:
        raise MalformedMessage(f"{name} is not a whole number from {least} to 2^53-1.")


def exactly(what: str, document: Mapping[str, Any], fields: frozenset[str]) -> None:
    if document.keys() != fields:
        raise MalformedMessage(f"{what} has a field too many or too few.")


def read_message(what: str, raw: bytes) -> dict[str, Any]:
    """Parse a message of at most `MAX_MESSAGE_BYTES` as one strict JSON object."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"{what} is larger than {MAX_MESSAGE_BYTES} bytes.")
    try:
        return load_object(raw)
    except ValueError as error:
        raise MalformedMessage(f"{what} {error}.") from None


def read_bytes(name: str, value: object, *, length: int | None = None) -> bytes:
    try:
        return unb64url(value, length=length)
    except ValueError as error:
        raise MalformedMessage(f"{name} {error}.") from None
