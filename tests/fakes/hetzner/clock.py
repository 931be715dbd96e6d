"""Time that passes when everybody waits for it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, TypeVar

__all__ = ["VirtualClock"]

Answer = TypeVar("Answer")
_ROUNDS = 30


class VirtualClock:
    """A clock for a compute and the fake together.

    It moves on to the next sleeper's hour when nothing else can happen: no request is under way in
    the pool that :meth:`pool` makes, and every task that could run has run.
    """

    def __init__(self) -> None:
        self.now = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._busy = 0
        self._changed = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self.now + max(seconds, 0.0), next(self._numbers), future)
        heapq.heappush(self._sleepers, entry)
        self._changed.set()
        await future

    def advance(self, seconds: float) -> None:
        """Time passes whether somebody waits or not."""
        self.now += seconds
        while self._sleepers and self._sleepers[0][0] <= self.now:
            self._wake()

    def pool(self, threads: int = 8) -> ThreadPoolExecutor:
        return _CountedPool(threads, began=self._began, ended=self._ended)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _began(self) -> None:
        self._busy += 1

    def _ended(self) -> None:
        self._busy -= 1
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            for _ in range(_ROUNDS):  # whoever can go on goes on
                await asyncio.sleep(0)
            if self._busy or not self._sleepers:
                await self._changed.wait()
                continue
            self.now = max(self.now, self._sleepers[0][0])
            self._wake()

    def _wake(self) -> None:
        _, _, future = heapq.heappop(self._sleepers)
        if not future.done():
            future.set_result(None)


class _CountedPool(ThreadPoolExecutor):
    def __init__(
        self, threads: int, *, began: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        super().__init__(threads, thread_name_prefix="hetzner")
        self._began = began
        self._ended = ended

    def submit(self, fn: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        loop = asyncio.get_running_loop()
        self._began()
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended))
        return future
