"""How fast we may ask: Hetzner's rate limit, kept by us before Hetzner has to.

Hetzner allows a project a number of requests an hour (3600 by default) which comes back gradually,
``limit / 3600`` each second, and tells in each answer how many are left (API reference, "Rate
Limiting"). All requests of this process take their turn here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aura_core.errors import RateLimited

__all__ = ["Clock", "LoopClock", "Pace", "RetryBudget", "Turn"]

_log = logging.getLogger(__name__)

_HOUR = 3600.0
_WORTH_TELLING = 5.0


class Clock(Protocol):
    """Time as the plugin sees it; seconds."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class LoopClock:
    """The machine's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One request's leave to be sent. ``alone``: nothing else was under way when it was given."""

    number: int
    alone: bool


class Pace:
    """A token bucket that is corrected by each answer.

    What is left is counted by ourselves between two answers, and an answer may only lower it: the
    requests that are under way are missing from its number, and answers overtake each other. One
    that had the line to itself is exact, and may raise it too. Until the first answer nothing is
    known, so the first request goes alone. A hundredth of the limit is left to other processes
    that work on the same project and to whoever sits at the console.
    """

    def __init__(self, *, clock: Clock, longest_wait: float = 200.0) -> None:
        self._clock = clock
        self._longest_wait = longest_wait
        self._limit: float | None = None
        self._left = 0.0
        self._counted_at = clock.monotonic()
        self._sent = 0
        self._flying = 0
        self._waiting = 0
        self._line = asyncio.Lock()
        self._landed = asyncio.Event()

    async def turn(self) -> Turn:
        """Waits, in the order of asking, until one more request is within the limit.

        Raises :class:`RateLimited`, with the time to come back, where that would take longer than
        ``longest_wait`` seconds.
        """
        wait = self._expected()
        if wait > self._longest_wait:
            raise self._refusal(wait)
        if wait > _WORTH_TELLING:
            _log.info("requests to Hetzner wait for its rate limit")
        self._waiting += 1
        try:
            async with self._line:
                while self._limit is None and self._flying:
                    self._landed.clear()
                    await self._landed.wait()
                while (wait := self._short_of()) > 0:
                    await self._clock.sleep(wait)
                self._sent += 1
                self._flying += 1
                self._left -= 1.0
                return Turn(number=self._sent, alone=self._flying == 1)
        finally:
            self._waiting -= 1

    def answered(self, turn: Turn, headers: Mapping[str, str]) -> None:
        """The request has ended; ``headers`` are the answer's, empty where there was none."""
        self._flying -= 1
        self._landed.set()
        limit = _number(headers.get("RateLimit-Limit"))
        remaining = _number(headers.get("RateLimit-Remaining"))
        if limit is None or remaining is None or limit < 1:
            return
        self._count()
        first, self._limit = self._limit is None, limit
        if first or (turn.alone and turn.number == self._sent):
            self._left = remaining
        else:
            self._left = min(self._left, remaining - self._flying)

    def refused(self) -> None:
        """Hetzner says that there is nothing left, whatever we counted."""
        self._count()
        self._left = min(self._left, 0.0)

    def _count(self) -> None:
        now = self._clock.monotonic()
        if self._limit is not None:
            gained = (now - self._counted_at) * self._limit / _HOUR
            self._left = min(self._limit, self._left + gained)
        self._counted_at = now

    def _short_of(self) -> float:
        """Seconds until there is one request more than what is left to others."""
        if self._limit is None:
            return 0.0
        self._count()
        missing = 1.0 + self._limit / 100 - self._left
        # A moment more than exact: a clock in binary fractions may fall short of it.
        return missing * _HOUR / self._limit + 0.001 if missing > 1e-9 else 0.0

    def _expected(self) -> float:
        if self._limit is None:
            return 0.0
        queue = self._waiting * _HOUR / self._limit
        return max(0.0, self._short_of() + queue) if self._short_of() > 0 else 0.0

    def _refusal(self, wait: float) -> RateLimited:
        assert self._limit is not None  # noqa: S101 - without a limit nobody waits
        return RateLimited(
            f"The Hetzner project's limit of {self._limit:.0f} requests an hour is used up; "
            f"there is one again in about {wait:.0f} seconds.",
            retry_after=wait,
            hint="Hetzner's support raises the limit of a project.",
        )


class RetryBudget:
    """How many requests may be repeats: ten at once, and then one in five.

    Where a service is ill, programs that repeat each request several times keep it so, and an
    account that did was closed. Each single request has its own, smaller bound beside this one.
    """

    def __init__(self, *, most: float = 10.0, share: float = 0.2) -> None:
        self._most = most
        self._share = share
        self._left = most

    def first(self) -> None:
        """A request is sent for the first time."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether one more may be repeated."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
