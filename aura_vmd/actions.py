"""The action log: one JSON line for each thing the agent did or was refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aura_vmd.appending import Appender

__all__ = ["ActionLog"]


class ActionLog:
    """Lines appended to ``path``; at ``max_bytes`` it becomes ``path.1`` and so on.

    Raises ``OSError`` where a line cannot be written, and then the action is not done: what nobody
    can look up afterwards should not happen.
    """

    def __init__(self, *, path: Path, max_bytes: int = 8 * 1024 * 1024, keep: int = 4) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._appender = Appender(lambda lines: partial(self._append, b"\n".join([*lines, b""])))

    async def record(self, entry: Mapping[str, Any]) -> None:
        """Append one line. The caller leaves out query values, bodies and secrets."""
        line = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()
        await self._appender.append(line)

    async def settle(self) -> None:
        """Wait until all lines are written; at shutdown."""
        await self._appender.settle()

    def _append(self, lines: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(handle).st_size + len(lines) > self._max_bytes:
                os.close(handle)
                handle = -1
                self._rotate()
                handle = os.open(self._path, flags, 0o600)
            if os.write(handle, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            if handle >= 0:
                os.close(handle)

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                os.replace(older, self._path.with_name(f"{self._path.name}.{number + 1}"))
        os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
