"""Canaries: secrets that a test knows, and a search for them wherever they must not be.

A secret leaks as it is, and as a library, a log or a shell spells it: encoded, compressed, broken
over lines, in other case. :meth:`Canaries.look` finds it in all of these; what is packed in what it
looks at is unpacked first. Where a secret has to be, the test says so, with the reason.
"""

from __future__ import annotations

import base64
import bz2
import fnmatch
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

__all__ = ["Allowed", "Canaries", "Sighting", "spellings"]

_SHORTEST = 12
"""Bytes of a secret: anything shorter is found by chance."""

_STEM = 16
"""Characters of the middle of a long spelling that are enough to know it: what surrounds a secret
changes the ends of its encoding, and who logs a part of it leaks it too."""

_PACKED = re.compile(rb"[A-Za-z0-9+/_-]{40,}={0,2}")
_DEEPEST = 4
_LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """A place where a secret has to be. ``secret`` and ``place`` are patterns (``*``)."""

    secret: str
    place: str
    reason: str

    def covers(self, sighting: Sighting) -> bool:
        return fnmatch.fnmatchcase(sighting.secret, self.secret) and fnmatch.fnmatchcase(
            sighting.place, self.place
        )


@dataclass(frozen=True, kw_only=True, order=True)
class Sighting:
    """A secret was seen: which, where, and how it was spelled. It does not hold the secret."""

    secret: str
    place: str
    spelling: str


def spellings(secret: bytes) -> dict[str, bytes]:
    """How a secret may be written, in lower case, by the name of the spelling.

    Base64 depends on where the secret begins in what is encoded: the parts that do not depend on
    its neighbours are taken, for each of the three ways. URL-safe base64 is the same but for two
    characters, which the search takes for each other.
    """
    found = {"raw": secret, "reversed": secret[::-1], "hexadecimal": secret.hex().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        found[f"base64 at {shift}"] = encoded[4 if shift else 0 :].rstrip(b"=")[:-1]
    found["percent-encoded"] = quote(secret, safe="").encode()
    found["percent-encoded whole"] = b"".join(b"%%%02x" % byte for byte in secret)
    found["escaped"] = b"".join(b"\\x%02x" % byte for byte in secret)
    text = secret.decode("utf-8", "replace")
    if "\N{REPLACEMENT CHARACTER}" not in text:
        found["JSON"] = json.dumps(text)[1:-1].encode()
        found["JSON whole"] = "".join(f"\\u{ord(letter):04x}" for letter in text).encode()
        found["UTF-16"] = text.encode("utf-16-le")
    return {name: _flat(_stem(name, spelled)) for name, spelled in found.items()}


def _stem(name: str, spelled: bytes) -> bytes:
    each = {"hexadecimal": 2, "percent-encoded whole": 3, "escaped": 4, "JSON whole": 6}
    length = _STEM * each.get(name, 2 if name == "UTF-16" else 1)
    start = max(0, (len(spelled) - length) // 2)
    start -= start % (each.get(name, 2 if name == "UTF-16" else 1))
    return spelled[start : start + length]


_FLAT = bytes.maketrans(b"-_", b"+/")
_BROKEN = re.compile(rb"\\[rnt]|[\s\"',]+")


def _flat(content: bytes) -> bytes:
    """In lower case, and the two base64 alphabets as one."""
    return content.lower().translate(_FLAT)


@dataclass
class Canaries:
    """The secrets of a test, and where they were seen."""

    allowed: Sequence[Allowed] = ()
    sightings: set[Sighting] = field(default_factory=set)
    looked: int = 0
    """Bytes."""

    def __post_init__(self) -> None:
        self._needles: dict[str, dict[str, bytes]] = {}

    @property
    def planted(self) -> frozenset[str]:
        """The names of all secrets."""
        return frozenset(self._needles)

    def plant(self, name: str, secret: str | bytes) -> None:
        """Looks for this secret from now on."""
        content = secret.encode() if isinstance(secret, str) else secret
        assert len(content) >= _SHORTEST, f"{name} is too short to be told from chance"
        self._needles[name] = spellings(content)

    def forbid(self) -> None:
        """Fails when a secret was seen where it must not be, and for an exception that nothing
        needed: it would hide the next leak."""
        leaks = [s for s in sorted(self.sightings) if not any(a.covers(s) for a in self.allowed)]
        assert leaks == [], "secrets leaked:\n" + "\n".join(map(str, leaks))
        idle = [a for a in self.allowed if not any(a.covers(s) for s in self.sightings)]
        assert idle == [], f"exceptions that nothing needs: {idle}"

    def look(self, place: str, content: str | bytes) -> None:
        """Searches a text, and all that is packed in it."""
        raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        for part in _unpacked(raw):
            self._search(place, part)

    def look_at_files(self, place: str, *roots: Path, skip: Sequence[Path] = ()) -> None:
        """Searches every file below the roots, links and names included."""
        for root in roots:
            for path in sorted([root, *root.rglob("*")]):
                where = f"{place}:{path.relative_to(root.parent)}"
                self.look(where, os.fsencode(path.name))
                if path.is_symlink():
                    self.look(where, os.fsencode(path.readlink()))
                elif path.is_file() and not any(path.is_relative_to(one) for one in skip):
                    self.look(where, path.read_bytes())

    def look_at_processes(self, describe: Callable[[int, bytes], str]) -> None:
        """Searches command line and environment of every process that can be seen. ``describe``
        names the process of an id and a command line."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue  # it ended, or is another user's
            name = describe(int(entry.name), command)
            self.look(f"command line:{name}", command)
            self.look(f"environment:{name}", environment)

    def _search(self, place: str, content: bytes) -> None:
        self.looked += len(content)
        flat = _flat(content)
        # A secret that was broken over lines, or into pieces of a list or of source code.
        joined = _BROKEN.sub(b"", flat)
        for secret, needles in self._needles.items():
            for spelling, needle in needles.items():
                if needle in flat or needle in joined:
                    self.sightings.add(Sighting(secret=secret, place=place, spelling=spelling))


_MAGIC: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b\x08", lambda data: zlib.decompressobj(wbits=31).decompress(data, _LARGEST)),
    (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor().decompress(data, _LARGEST)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, _LARGEST)),
    (b"x\x9c", lambda data: zlib.decompressobj().decompress(data, _LARGEST)),
)


def _unpacked(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The content, and what is compressed in it, be it in base64 too."""
    yield content
    if depth == _DEEPEST:
        return
    for magic, unpack in _MAGIC:
        at = content.find(magic)
        while at >= 0:
            try:
                inner = unpack(content[at:])
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
                inner = b""
            if inner:
                yield from _unpacked(inner, depth + 1)
            at = content.find(magic, at + 1)
    for match in _PACKED.finditer(re.sub(rb"\s*\n\s*", b"", content)):
        text = match[0].rstrip(b"=").translate(_FLAT)
        inner = base64.b64decode(text[: len(text) - len(text) % 4])
        if any(inner.startswith(magic) for magic, _ in _MAGIC):
            yield from _unpacked(inner, depth + 1)
