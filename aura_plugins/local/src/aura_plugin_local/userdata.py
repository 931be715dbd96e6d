"""Reading user-data as cloud-init would, for the parts that a local machine needs."""

from __future__ import annotations

import base64
import binascii
import posixpath
import zlib
from dataclasses import dataclass
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aura_core.errors import ComputeError

__all__ = ["UserData", "WrittenFile", "read_user_data"]

_LARGEST = 16 * 1024 * 1024
"""Bytes that user-data may unpack to: 32 KiB of gzip can hold a thousand times as much."""


class _Entry(BaseModel):
    # Keys that this reader does not know change what a file means: better refused than wrong.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    path: Annotated[str, StringConstraints(pattern=r"^/[^\x00]+$")]
    content: str
    encoding: Literal["b64", "text/plain"] = "text/plain"
    permissions: Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}$")] = "0644"
    owner: Annotated[str, StringConstraints(pattern=r"^[a-z]+:[a-z]+$")] = "root:root"
    defer: bool = False


class _CloudConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    write_files: Annotated[tuple[_Entry, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """``path`` is absolute as the machine sees it; ``owner`` and ``group`` are names."""

    path: str
    content: bytes
    mode: int
    owner: str
    group: str


@dataclass(frozen=True, kw_only=True)
class UserData:
    """The files in the order in which they are to be written."""

    files: tuple[WrittenFile, ...]


def read_user_data(text: str) -> UserData:
    """Read ``base64(gzip(#cloud-config))``.

    Raises :class:`ComputeError` (not retryable) for anything that cloud-init would ignore or get
    wrong; the message holds nothing of the document, which holds the join token.
    """
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        raw = unpacker.decompress(base64.b64decode(text, validate=True), _LARGEST)
        document = raw.decode()
    except (binascii.Error, zlib.error, UnicodeDecodeError):
        raise _unusable("is not base64 of a gzip") from None
    if not unpacker.eof:
        raise _unusable("is truncated or too large")
    if not document.startswith("#cloud-config\n"):
        raise _unusable("is no cloud-config")
    try:
        config = _CloudConfig.model_validate(yaml.safe_load(document))
        return UserData(files=tuple(_file(entry) for entry in config.write_files))
    except (yaml.YAMLError, ValidationError, binascii.Error, UnicodeEncodeError):
        raise _unusable("holds no files that can be written") from None


def _unusable(reason: str) -> ComputeError:
    return ComputeError(f"The machine's user-data {reason}.", retryable=False)


def _file(entry: _Entry) -> WrittenFile:
    if posixpath.normpath(entry.path) != entry.path or entry.path.startswith("//"):
        raise _unusable("writes to a path that is no plain one")
    content = entry.content.encode()
    if entry.encoding == "b64":
        content = base64.b64decode(content, validate=True)
    owner, _, group = entry.owner.partition(":")
    return WrittenFile(
        path=entry.path,
        content=content,
        mode=int(entry.permissions, 8),
        owner=owner,
        group=group,
    )
