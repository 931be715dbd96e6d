"""Refused calls on their way into the tenant's audit log: kept until the control plane has them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aura_vmd.journal import Journal

__all__ = ["Refusal", "Refusals"]

_MOST = 100
_REPORT_BYTES = 24 * 1024
"""A heartbeat has 64 KiB for everything."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A call that was refused, by which rule, at ``at`` (ISO 8601).

    ``seq`` only rises, over restarts too: it is how the control plane takes each one once.
    ``left_out`` is how many earlier ones were dropped to make room.
    """

    seq: int
    at: str
    method: str
    provider: str
    host: str
    path: str
    rule: str
    left_out: int = 0


class Refusals:
    """The latest refused calls that the control plane has not taken yet, at most 100."""

    def __init__(
        self, *, path: Path, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._now_ms = now_ms
        self._last = 0
        self._waiting: deque[Refusal] = deque()
        self._journal = Journal(path=path, kept=self._kept)

    def load(self) -> None:
        """Take over what is on disk. Blocks. Raises ``ConfigurationError``."""
        for found in self._journal.load():
            if not isinstance(found, dict):
                continue
            if type(found.get("taken")) is int:
                self._drop(found["taken"])
                continue
            try:
                refusal = Refusal(**found)
            except TypeError:
                continue
            self._add(refusal)

    async def record(self, entry: Mapping[str, Any]) -> None:
        """Keep one, from its line in the action log. Raises ``OSError``."""
        refusal = Refusal(
            # As revisions are: a state directory that lost its last lines repeats no number.
            seq=max(self._last + 1, self._now_ms()),
            at=str(entry.get("at", ""))[:40],
            method=_plain(entry.get("method"), 16),
            provider=_plain(entry.get("provider"), 64),
            host=_plain(entry.get("host"), 128),
            path=_plain(entry.get("path"), 256),
            rule=_plain(entry.get("rule"), 160),
        )
        self._add(refusal)
        await self._journal.append(asdict(refusal))

    def report(self) -> list[dict[str, Any]]:
        """What the next heartbeat says, oldest first, as many as fit."""
        found: list[dict[str, Any]] = []
        size = 0
        for refusal in self._waiting:
            document = asdict(refusal)
            size += len(json.dumps(document)) + 1
            if size > _REPORT_BYTES:
                break
            found.append(document)
        return found

    async def taken(self, seq: Any) -> None:
        """The control plane has all up to this number. Raises ``OSError``."""
        if type(seq) is int and self._waiting and seq >= self._waiting[0].seq:
            self._drop(seq)
            await self._journal.append({"taken": seq})

    async def settle(self) -> None:
        """Wait until all is on the disk; at shutdown."""
        await self._journal.settle()

    def _add(self, refusal: Refusal) -> None:
        self._last = max(self._last, refusal.seq)
        self._waiting.append(refusal)
        while len(self._waiting) > _MOST:
            oldest = self._waiting.popleft()
            first = self._waiting.popleft()
            left_out = first.left_out + oldest.left_out + 1
            self._waiting.appendleft(replace(first, left_out=left_out))

    def _drop(self, seq: int) -> None:
        self._last = max(self._last, min(seq, self._now_ms()))
        while self._waiting and self._waiting[0].seq <= seq:
            self._waiting.popleft()

    def _kept(self) -> Iterable[dict[str, Any]]:
        yield {"taken": self._waiting[0].seq - 1 if self._waiting else self._last}
        yield from (asdict(refusal) for refusal in self._waiting)


def _plain(value: Any, longest: int) -> str:
    """The agent chose this text: printable ASCII, and short."""
    text = "" if value is None else str(value)
    return "".join(c if "\x20" <= c <= "\x7e" else "?" for c in text[:longest])
