"""Writing together what comes at the same time, in one transaction instead of one for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from aura_control.logs import get_logger

__all__ = ["GroupedWrites"]

_log = get_logger(__name__)

T = TypeVar("T")


class GroupedWrites(Generic[T]):
    """While one group is written the next one gathers, so the busier it is the larger they are, and
    whoever comes alone does not wait.

    One item that cannot be written must not take the others with it: a group that fails is written
    again one by one.
    """

    def __init__(
        self, write: Callable[[Sequence[T]], Awaitable[None]], *, largest: int = 200
    ) -> None:
        """``write`` is one transaction over all items that it is given, of ``largest`` at most."""
        self._write = write
        self._largest = largest
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, item: T) -> None:
        """Returns when the item is committed. Raises what ``write`` raises for it alone."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await done

    async def settle(self) -> None:
        """Waits until everything that was added is written; at shutdown."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = self._waiting[: self._largest]
                del self._waiting[: self._largest]
                await self._write_group(group)
        finally:
            self._task = None

    async def _write_group(self, group: list[tuple[T, asyncio.Future[None]]]) -> None:
        try:
            await self._write([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - each of them is told below
            if len(group) == 1:
                _settle(group[0][1], error)
                return
            _log.warning("group_broke", size=len(group), kind=type(error).__name__)
            for one in group:
                await self._write_group([one])
        else:
            for _, done in group:
                _settle(done, None)


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return  # who added it was cancelled
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
