"""An answer that many ask for, fetched once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from aura_plugin_hetzner.pace import Clock

__all__ = ["Kept"]

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Whoever asks while it is being fetched waits for that fetch; each says how old is too old."""

    def __init__(self, fetch: Callable[[], Awaitable[Value]], *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._value: Value | None = None
        self._as_of = float("-inf")

    async def get(self, *, seconds: float) -> Value:
        """The value, at most ``seconds`` older than this call. Raises what fetching raises, to each
        that waited in turn: a failure is not kept."""
        asked = self._clock.monotonic()
        async with self._lock:
            if self._value is None or self._as_of < asked - seconds:
                # Of the moment before it was asked for: later changes may be missing from it.
                as_of = self._clock.monotonic()
                self._value = await self._fetch()
                self._as_of = as_of
            return self._value

    def forget(self) -> None:
        """The next one who asks has it fetched."""
        self._as_of = float("-inf")
