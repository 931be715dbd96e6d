"""Lines that are appended one after another, off the loop: those that wait share one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

__all__ = ["Appender"]

Job = Callable[[], None]


class Appender:
    """Hands lines to a thread, which costs more than writing them, as many at once as have come.

    ``job`` is called on the loop with the lines of one write, and answers what the thread does.
    """

    def __init__(self, job: Callable[[Sequence[bytes]], Job]) -> None:
        self._job = job
        self._turn = asyncio.Lock()
        self._lines: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, *lines: bytes) -> None:
        """Returns once the lines are written; raises what kept them from it (``OSError``)."""
        self._lines += lines
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
            self._tasks.add(self._writing)
            self._writing.add_done_callback(self._tasks.discard)
        # A caller that goes away takes nobody else's line along.
        await asyncio.shield(self._writing)

    async def settle(self) -> None:
        """Wait until all lines are written, also those whose callers went away; at shutdown."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self) -> None:
        async with self._turn:
            lines, self._lines, self._writing = self._lines, [], None
            await asyncio.to_thread(self._job(lines))
