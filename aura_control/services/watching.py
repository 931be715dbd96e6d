"""Following events: waking those in this process who do, and an end for old events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from aura_control.ports import Watch

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["Watchers", "prune"]


class _Watcher:
    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - keep-alives
        try:
            async with asyncio.timeout(timeout):
                await self.event.wait()
        except TimeoutError:
            return False
        self.event.clear()
        return True


class Watchers:
    """A ``Notifier``. Each follower has a flag of its own that stays up until it looked."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[_Watcher]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether followers should end: the control plane stops."""
        return self._closed

    def following(self, followed: str) -> int:
        """How many follow the user or agent (id)."""
        return len(self._watchers.get(followed, ()))

    def notify(self, followed: str) -> None:
        """There are new events; returns at once."""
        for watcher in self._watchers.get(followed, ()):
            watcher.event.set()

    def close(self) -> None:
        """Ends all following. To be called when the server is asked to stop, before it waits for
        its connections: a stream would keep it from stopping."""
        self._closed = True
        for followed in self._watchers:
            self.notify(followed)

    @contextmanager
    def watch(self, followed: str) -> Iterator[Watch]:
        """Follows the user or agent (id) inside the block: nothing that is notified from then
        on is missed."""
        watcher = _Watcher()
        self._watchers.setdefault(followed, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[followed].discard(watcher)
            if not self._watchers[followed]:
                del self._watchers[followed]


async def prune(services: Services) -> int:
    """Deletes the events that nobody should want to read on from any more; how many. A watcher
    that comes back later than that is told so (``api.events``)."""
    total, deleted = 0, 1
    while deleted:
        async with services.database.transaction() as tx:
            before = tx.now - timedelta(days=services.settings.event_days)
            deleted = await tx.events.prune(before=before)
        total += deleted
    return total
