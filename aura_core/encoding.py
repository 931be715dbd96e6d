"""The byte encodings that Aura's formats share, each with exactly one accepted spelling.

Whatever is signed, compared or hashed must not have two spellings: a second one is a way to make
two parties read different things out of the same bytes. Every function here raises `ValueError`
with a message that never holds the offending text, because that text is often a secret; the
callers turn it into the error of their own format.
"""

from __future__ import annotations

import json
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from typing import Any, NoReturn

__all__ = ["b64url", "load_object", "lp", "unb64url"]

_LENGTH = struct.Struct(">I")


def lp(*fields: bytes | str | int) -> bytes:
    """Join `fields`, each behind its length as 4 bytes big-endian.

    Text is UTF-8 and an integer is its decimal digits, so `lp(5) == lp("5")`: a format fixes the
    type of each of its fields. As bytes, two different lists of fields never join to the same.
    """
    parts: list[bytes] = []
    for field in fields:
        if isinstance(field, bytes):
            data = field
        elif isinstance(field, str):
            data = field.encode()
        elif isinstance(field, bool) or field < 0:
            raise ValueError("a length-prefixed field is bytes, text or a whole number from 0")
        else:
            data = b"%d" % field
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def b64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 4648 §5)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: object, *, length: int | None = None) -> bytes:
    """Decode canonical base64url without padding; `length` is the exact number of bytes.

    Python's decoder ignores foreign characters and unused low bits. Encoding the result again and
    comparing refuses all of these at once.
    """
    if not isinstance(text, str):
        raise ValueError("is not base64url text")
    data: bytes | None = None
    with suppress(ValueError):
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if data is None or b64url(data) != text:
        raise ValueError("is not canonical base64url without padding")
    if length is not None and len(data) != length:
        raise ValueError(f"is not {length} bytes long")
    return data


def load_object(raw: bytes | str) -> dict[str, Any]:
    """Parse `raw` as one JSON object (RFC 8259), UTF-8, no duplicate keys, no floats, no NaN.

    Floats are refused because none of the formats has one, and a float that equals a whole number
    would be a second spelling of it.
    """
    reason = "is not valid JSON"
    value: object = None
    # The decoder's own exception carries the whole document. The error is therefore raised outside
    # of the handler, where no reference to it is left for a traceback to print.
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except _Refused as refused:
        reason = refused.reason
    except (ValueError, RecursionError):
        pass
    else:
        reason = "is not a JSON object"
    if not isinstance(value, dict):
        raise ValueError(reason)
    return value


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise _Refused("names a key twice")
    return unique


def _refuse_number(_: str) -> NoReturn:
    raise _Refused("holds a number that is not whole")
