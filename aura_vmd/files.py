"""Files that are whole or absent, whatever happens to the power."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["TEMPORARY", "read_nofollow", "sync_directory", "write_durably"]

TEMPORARY = ".tmp-"
"""Prefix of files that are being written; what is found at start was torn and is removed."""


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: written beside it, synced, renamed, the directory synced.

    After it returns, the content survives a crash; before, the earlier content does. Blocks, so
    call it in a thread. Raises ``OSError``.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory durable (fsync(2), NOTES)."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_nofollow(path: Path, *, limit: int) -> bytes:
    """A plain file's content; a link in its place is an ``OSError``, as is more than ``limit``."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path.name} is larger than {limit} bytes")
    return data
