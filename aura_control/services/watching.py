"""Waking those in this process who follow an agent's events."""

from __future__ import annotations

import asyncio
from collections import Counter

__all__ = ["Watchers"]


class Watchers:
    """``Notifier`` for one event loop."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the control plane stops: watchers should end."""
        return self._closed

    def token(self, agent_id: str) -> int:
        """What ``wait`` compares with, taken before the events are read."""
        return self._seen[agent_id]

    def notify(self, agent_id: str) -> None:
        """There are new events; returns at once."""
        self._seen[agent_id] += 1
        self._wake(agent_id)

    async def wait(self, agent_id: str, timeout: float, token: int) -> bool:  # noqa: ASYNC109
        """Waits until something came after ``token``, at most ``timeout`` seconds; whether it
        did. Returns at once when the control plane stops."""
        if self._closed or self._seen[agent_id] != token:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(agent_id, set())
        waiting.add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(agent_id) is waiting:
                del self._waiting[agent_id]
        return True

    def close(self) -> None:
        """Wakes everybody for the last time."""
        self._closed = True
        for agent_id in [*self._waiting]:
            self._wake(agent_id)

    def _wake(self, agent_id: str) -> None:
        for future in self._waiting.pop(agent_id, ()):
            if not future.done():
                future.set_result(None)
