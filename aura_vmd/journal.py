"""A small durable file of lines: what was counted and refused survives a kill and a power cut."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aura_core.errors import ConfigurationError
from aura_vmd.appending import Appender
from aura_vmd.files import read_nofollow, sync_directory, write_durably

__all__ = ["Journal"]

_LARGEST = 64 * 1024 * 1024


class Journal:
    """Documents (JSON), one a line, appended and synced before :meth:`append` returns.

    When the file has grown to ``max_bytes`` it is replaced by ``kept()``: what is still of use,
    taken from the memory of whoever owns the journal, which holds a document before it is appended.
    """

    def __init__(
        self, *, path: Path, kept: Callable[[], Iterable[Any]], max_bytes: int = 256 * 1024
    ) -> None:
        self._path = path
        self._kept = kept
        self._max_bytes = max_bytes
        self._size = 0
        self._appender = Appender(self._job)

    def load(self) -> list[Any]:
        """What is in the file, in order. Blocks.

        A line that is none is passed over: only the last can be torn, by a power cut while it was
        written, and then its call was not made yet. Raises :class:`ConfigurationError` for a file
        that cannot be read: to go on without it would be to forget what was used.
        """
        try:
            raw = read_nofollow(self._path, limit=_LARGEST)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error}.") from None
        self._size = len(raw)
        if raw and not raw.endswith(b"\n"):
            self._size = self._max_bytes  # what comes next must not become part of the torn line
        return [found for line in raw.splitlines() if (found := _read(line)) is not None]

    async def append(self, *documents: Any) -> None:
        """Returns once they are on the disk. Raises ``OSError``."""
        await self._appender.append(*map(_line, documents))

    async def settle(self) -> None:
        """Wait until all documents are on the disk; at shutdown."""
        await self._appender.settle()

    def _job(self, lines: Sequence[bytes]) -> Callable[[], None]:
        self._size += sum(map(len, lines))
        if self._size < self._max_bytes:
            return partial(self._append, b"".join(lines))
        whole = b"".join(map(_line, self._kept()))
        # Where all of it is still of use, it is not rewritten for each line to come.
        self._max_bytes = max(self._max_bytes, 2 * len(whole))
        self._size = len(whole)
        return partial(self._replace, whole)

    def _replace(self, whole: bytes) -> None:
        try:
            write_durably(self._path, whole)
        except OSError:
            # The earlier file is still there, and may end in half a line: the next write tries
            # again, because a line that is appended to a half one is lost with it.
            self._size = self._max_bytes
            raise

    def _append(self, lines: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._path, flags, 0o600)
        try:
            new = os.fstat(handle).st_size == 0
            if os.write(handle, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(handle)
        except OSError:
            self._size = self._max_bytes  # half a line may be there: the next write makes it anew
            raise
        finally:
            os.close(handle)
        if new:
            sync_directory(self._path.parent)


def _line(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
