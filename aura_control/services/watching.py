"""Waking those in this process who follow an agent's events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aura_control.ports import Watch

__all__ = ["Watchers"]


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

    def notify(self, agent_id: str) -> None:
        """There are new events; returns at once."""
        for watcher in self._watchers.get(agent_id, ()):
            watcher.event.set()

    def close(self) -> None:
        """Ends all following. To be called when the server is asked to stop, before it waits for
        its connections: a stream would keep it from stopping."""
        self._closed = True
        for agent_id in self._watchers:
            self.notify(agent_id)

    @contextmanager
    def watch(self, agent_id: str) -> Iterator[Watch]:
        """Follows the agent inside the block: nothing that is notified from then on is missed."""
        watcher = _Watcher()
        self._watchers.setdefault(agent_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[agent_id].discard(watcher)
            if not self._watchers[agent_id]:
                del self._watchers[agent_id]
