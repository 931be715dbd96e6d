"""The search for canaries finds each secret in each place and spelling, and nothing by chance."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import secrets
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tests.canaries import Allowed, Canaries

Write = Callable[[bytes], bytes]


def tar_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        entry = tarfile.TarInfo("a.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def after(before: int, secret: bytes) -> bytes:
    return base64.b64encode(b"Basic:xyz"[:before] + secret + b"tail")


def broken(secret: bytes, by: bytes) -> bytes:
    middle = len(secret) // 2
    return secret[:middle] + by + secret[middle:]


SPELLINGS: dict[str, Write] = {
    "as it is": lambda s: s,
    "in a sentence": lambda s: b"the token was " + s + b", sorry",
    "upper case": lambda s: s.upper(),
    "lower case": lambda s: s.lower(),
    "reversed": lambda s: s[::-1],
    "hexadecimal": lambda s: s.hex().encode(),
    "HEXADECIMAL": lambda s: s.hex().upper().encode(),
    **{f"base64 after {before} bytes": partial(after, before) for before in range(7)},
    "base64url": lambda s: base64.urlsafe_b64encode(s).rstrip(b"="),
    "base64 in lines": lambda s: base64.encodebytes(b"x" * 50 + s + b"y" * 50),
    "a query": lambda s: quote(s, safe="").encode(),
    "a form": lambda s: quote_plus(s).encode(),
    "percent by percent": lambda s: b"".join(b"%%%02X" % byte for byte in s),
    "JSON": lambda s: json.dumps({"a": s.decode("latin-1")}).encode(),
    "JSON in JSON": lambda s: json.dumps(json.dumps({"a": s.decode("latin-1")})).encode(),
    "escaped bytes": lambda s: b"".join(b"\\x%02x" % byte for byte in s),
    "escaped letters": lambda s: b"".join(b"\\u%04x" % byte for byte in s),
    "UTF-16": lambda s: s.decode("latin-1").encode("utf-16-le"),
    "two lines": lambda s: broken(s, b"\n"),
    "two indented lines": lambda s: broken(s, b"\r\n\t  "),
    "two lines of JSON": lambda s: broken(s, b"\\n"),
    "two strings": lambda s: broken(s, b'" "'),
    "gzip": lambda s: gzip.compress(b"a" * 99 + s),
    "gzip inside a file": lambda s: b"head\x00" + gzip.compress(s) + b"tail",
    "gzip in base64": lambda s: b"data: " + base64.b64encode(gzip.compress(b"a" + s)) + b"\n",
    "gzip of base64 of gzip": lambda s: gzip.compress(base64.b64encode(gzip.compress(s))),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zlib": zlib.compress,
    "a tar.xz in base64": lambda s: base64.b64encode(tar_of(s)),
    "half of it": lambda s: s[: len(s) // 2 + 10],
}


@pytest.fixture
def secret() -> bytes:
    return ("cAn:" + secrets.token_urlsafe(32) + "/+?").encode()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_found(secret: bytes, spelling: str) -> None:
    canaries = Canaries()
    canaries.plant("token", secret)
    canaries.look("log", SPELLINGS[spelling](secret))
    with pytest.raises(AssertionError, match="secrets leaked") as caught:
        canaries.forbid()
    assert secret.decode() not in str(caught.value), "the search itself would leak it"


OF_TEXT_ONLY = (
    "a query", "a form", "escaped letters", "JSON", "JSON in JSON", "lower case", "upper case",
    "UTF-16",
)  # fmt: skip


@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if name not in OF_TEXT_ONLY])
def test_bytes_that_are_no_text_are_found_too(spelling: str) -> None:
    salt = bytes(range(200, 232))
    canaries = Canaries()
    canaries.plant("salt", salt)
    canaries.look("file", SPELLINGS[spelling](salt))
    assert canaries.sightings


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_secret_is_not_mistaken_for_it(secret: bytes, spelling: str) -> None:
    canaries = Canaries()
    canaries.plant("token", secret)
    other = ("cAn:" + secrets.token_urlsafe(32) + "/+?").encode()
    canaries.look("log", SPELLINGS[spelling](other))
    canaries.forbid()


def test_files_names_and_links_are_searched(secret: bytes, tmp_path: Path) -> None:
    name = secret.replace(b"/", b"_").decode()
    (tmp_path / "deep/er").mkdir(parents=True)
    places: dict[str, Callable[[Path], object]] = {
        "content": lambda at: (at / "x").write_bytes(b"..." + secret),
        "name": lambda at: (at / name).touch(),
        "directory": lambda at: (at / name).mkdir(),
        "link": lambda at: (at / "link").symlink_to(f"/nowhere/{name}"),
    }
    for number, (what, write) in enumerate(places.items()):
        root = tmp_path / f"deep/er/{number}"
        root.mkdir()
        write(root)
        canaries = Canaries()
        canaries.plant("token", secret)
        canaries.plant("name", name)
        canaries.look_at_files("files", tmp_path / "deep/er" / str(number))
        assert canaries.sightings, what
        kept = Canaries()
        kept.plant("token", secret)
        kept.look_at_files("files", root, skip=[root / "x"])
        assert not [s for s in kept.sightings if s.place.endswith("/x")]


@pytest.mark.parametrize("where", ["command line", "environment"])
@pytest.mark.parametrize("spelling", ["as it is", "base64 after 0 bytes", "gzip in base64"])
def test_processes_are_searched(secret: bytes, where: str, spelling: str) -> None:
    written = SPELLINGS[spelling](secret).decode()
    program = [sys.executable, "-c", "input()"]
    environment = dict(os.environ)
    if where == "environment":
        environment["THING"] = written
    else:
        program.append(written)
    canaries = Canaries()
    canaries.plant("token", secret)
    with subprocess.Popen(program, stdin=subprocess.PIPE, env=environment) as process:
        canaries.look_at_processes(
            lambda number, _: "mine" if number == process.pid else "another's"
        )
        process.communicate(b"\n")
    assert {(s.secret, s.place) for s in canaries.sightings} == {("token", f"{where}:mine")}


def test_an_exception_covers_its_place_only(secret: bytes) -> None:
    allowed = Allowed(secret="tok*", place="file:*/keys", reason="it is made to lie there")
    canaries = Canaries(allowed=[allowed])
    canaries.plant("token", secret)
    with pytest.raises(AssertionError, match="nothing needs"):
        canaries.forbid()
    canaries.look("file:data/keys", secret)
    canaries.forbid()
    canaries.look("log", secret)
    with pytest.raises(AssertionError, match="secrets leaked"):
        canaries.forbid()


def test_what_is_too_short_to_tell_is_refused() -> None:
    with pytest.raises(AssertionError, match="too short"):
        Canaries().plant("pin", "1234")
