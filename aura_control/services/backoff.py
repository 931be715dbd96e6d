"""How long to leave a connection, or a whole provider, alone after a failure."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

__all__ = ["Backoffs"]

_FIRST = 5.0
_LONGEST = 300.0
_LONGEST_ASKED = 3600.0
_PROVIDER_PAUSE = 60.0


class Backoffs:
    """One per process. How often a connection failed is forgotten when the process ends; until
    when it is left alone is stored with it, for the sweeps of all processes."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._paused: dict[str, datetime] = {}

    def failed(self, connection_id: str, *, asked: float = 0.0) -> datetime:
        """When to try again: twice as long each time up to five minutes, with jitter; not before
        the ``asked`` seconds of the provider, up to an hour."""
        failures = self._failures[connection_id] = self._failures.get(connection_id, 0) + 1
        longest = min(_LONGEST, _FIRST * 2 ** min(failures - 1, 10))
        seconds = max(min(asked, _LONGEST_ASKED), random.uniform(longest / 2, longest))  # noqa: S311
        return self._clock() + timedelta(seconds=seconds)

    def succeeded(self, connection_id: str) -> None:
        """The next failure is the first one again."""
        self._failures.pop(connection_id, None)

    def pause(self, provider: str, *, asked: float = _PROVIDER_PAUSE) -> None:
        """Asks the provider for nobody's tokens for ``asked`` seconds, a minute at most.

        A provider that says "slow down" means Aura's client, whose calls come from everybody's
        connections; one that refuses the client refuses it for all of them.
        """
        until = self._clock() + timedelta(seconds=min(asked, _PROVIDER_PAUSE))
        self._paused[provider] = max(until, self._paused.get(provider, until))

    def paused(self) -> frozenset[str]:
        """The providers that are to be left alone now."""
        now = self._clock()
        return frozenset(name for name, until in self._paused.items() if until > now)
