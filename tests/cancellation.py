"""Cancelling a task at a place of one's choice, so that each place can have its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

__all__ = ["cancelled_everywhere"]


class _Stepped:
    """Awaits ``work`` and cancels the task that does so when it waits for the ``at``-th time."""

    def __init__(self, work: Awaitable[None], *, at: int) -> None:
        self._steps = work.__await__()
        self._at = at
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited = self._steps.send(answer) if error is None else self._steps.throw(error)
            except StopIteration:
                return
            self.waits += 1
            if self.waits == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            answer = error = None
            try:
                answer = yield waited
            except BaseException as thrown:  # noqa: BLE001 - the work sees it, whatever it is
                error = thrown


async def cancelled_everywhere(
    work: Callable[[], Awaitable[None]],
) -> AsyncIterator[asyncio.Task[None]]:
    """``work``, cancelled at its first wait, then anew at its second, and so on; ends with the
    run that came to its end before. Each answer is the task of a run, done; who keeps it keeps
    the frames that the cancellation went through, like a log that has the traceback."""
    at = 0
    while True:
        at += 1
        stepped = _Stepped(work(), at=at)

        async def run(stepped: _Stepped = stepped) -> None:
            await stepped

        task = asyncio.create_task(run())
        await asyncio.wait({task})
        yield task
        if stepped.waits < at:
            return
