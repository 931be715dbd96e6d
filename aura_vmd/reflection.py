"""Does an answer hold the credential? Then the agent must not get it.

A service that echoes requests, an error page that quotes them, a redirect that repeats the query:
each would hand the agent what the broker keeps from it. So the answer is searched for every secret
of the credential, as it is and as the ways into a request write it. This is a net, not a wall: an
echo that is encrypted, spelt backwards or asked for in small pieces is not found. What keeps such
services out is that a manifest names no host that echoes.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

from aura_core.credentials import CredentialPayload, fill
from aura_core.errors import PermissionDenied

__all__ = ["LARGEST_DECODED", "Search", "needles"]

_SHORTEST = 8
"""Shorter values turn up by chance, and are no secrets that would hold for long."""

LARGEST_DECODED = 32 * 1024 * 1024
"""Bytes that a compressed answer may unpack to while it is searched."""

_STEP = 64 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def needles(payload: CredentialPayload) -> tuple[bytes, ...]:
    """What to search for: each secret field, and the pair of HTTP Basic, in their spellings."""
    public = payload.binding.public_fields
    values = {name: secret.get_secret_value() for name, secret in payload.fields.items()}
    plain = {value for name, value in values.items() if name not in public}
    for placement in payload.binding.placements:
        if placement.at == "basic":
            pair = f"{fill(placement.username, values)}:{fill(placement.password, values)}"
            plain.add(base64.b64encode(pair.encode()).decode())
    found: set[bytes] = set()
    for text in plain:
        if len(text) >= _SHORTEST:
            found |= {spelling.encode() for spelling in _spellings(text)}
    return tuple(sorted(found))


def _spellings(text: str) -> Iterator[str]:
    yield text
    for quoted in (quote(text), quote(text, safe=""), quote_plus(text)):
        yield quoted
        yield quoted.lower()
    yield json.dumps(text)[1:-1]
    yield json.dumps(text)[1:-1].replace("/", "\\/")
    yield base64.b64encode(text.encode()).decode().rstrip("=")


class Search:
    """Searches one answer: its headers, then its body piece by piece.

    A secret that is split between two pieces is found too: as many bytes as might begin one are
    held back until more has come.
    """

    def __init__(
        self,
        wanted: tuple[bytes, ...],
        *,
        encoding: str = "identity",
        watch: Callable[[bytes], None] | None = None,
    ) -> None:
        """``watch`` is given the plain bytes of the body, as they come."""
        self._watch = watch
        self._wanted = wanted
        self._overlap = max((len(needle) for needle in wanted), default=1) - 1
        self._held = b""
        self._decoded = b""
        self._decoder = _decoder(encoding)

    def headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Raises :class:`PermissionDenied` (rule ``reflected``)."""
        for name, value in headers:
            self._look(f"{name}: {value}".encode("utf-8", "surrogateescape"))

    def feed(self, piece: bytes) -> bytes:
        """What may be passed on by now. Raises :class:`PermissionDenied` (``reflected``; or
        ``encoding`` and ``size`` where the answer cannot be searched)."""
        window = self._held + piece
        self._look(window)
        if self._decoder is None:
            if self._watch is not None:
                self._watch(piece)
        else:
            for part in self._decoder.feed(piece):
                if self._watch is not None:
                    self._watch(part)
                both = self._decoded + part
                self._look(both)
                self._decoded = both[-self._overlap :] if self._overlap else b""
        if not self._overlap:
            return window
        self._held = window[-self._overlap :]
        return window[: -self._overlap]

    def rest(self) -> bytes:
        """The held-back end, once the answer is over."""
        held, self._held = self._held, b""
        return held

    def _look(self, data: bytes) -> None:
        if any(needle in data for needle in self._wanted):
            raise PermissionDenied(
                "The provider's answer repeats the credential, so it is not passed on.",
                rule="reflected",
            )


class _Inflate:
    """Unpacks gzip and zlib a step at a time, for looking only: the agent gets what was sent.

    A compression bomb costs its unpacked size in time, up to a bound, and one step in memory.
    """

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._total = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        pending = piece
        while pending:
            try:
                part = self._inflate.decompress(pending, _STEP)
            except zlib.error:
                raise _unreadable() from None
            self._total += len(part)
            if self._total > LARGEST_DECODED:
                raise PermissionDenied(
                    f"The provider's answer unpacks to more than {LARGEST_DECODED} bytes.",
                    rule="size",
                )
            yield part
            pending = self._inflate.unconsumed_tail
            if self._inflate.eof:  # gzip may have several members (RFC 1952 §2.2)
                pending = self._inflate.unused_data
                self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)


def _decoder(encoding: str) -> _Inflate | None:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return _Inflate()
    raise _unreadable()


def _unreadable() -> PermissionDenied:
    # Nothing compressed was asked for (Accept-Encoding: identity). An answer that cannot be
    # searched could hold the credential, so it is not passed on.
    return PermissionDenied(
        "The provider's answer is encoded in a way that the broker cannot look into.",
        rule="encoding",
    )
