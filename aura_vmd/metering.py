"""The agent's counters on its machine: what it used, durably, and what was used elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from aura_core.permissions import (
    DAY,
    TOKENS,
    Count,
    Counts,
    Decision,
    Taken,
    check,
    every_limit,
    limits,
    minute_of,
    used,
)
from aura_vmd.holdings import Holdings
from aura_vmd.journal import Journal

__all__ = ["Metering"]

_AT_ONCE = 256
"""Counts in one heartbeat: more than one minute of all limits that an agent can have."""

_LARGEST = 2**53


class Metering:
    """The :class:`~aura_core.permissions.Meter` of the one agent of this machine.

    A call is counted in memory, checked there, and written before it is made. What the control
    plane says was used elsewhere (its own execution of tools) is added when limits are checked; it
    is as old as the last heartbeat.
    """

    def __init__(
        self,
        *,
        path: Path,
        holdings: Holdings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._holdings = holdings
        self._now = now
        self._own = Counts()
        self._elsewhere = Counts()
        self._heard = 0
        self._reported = 0
        self._journal = Journal(path=path, kept=self._kept)

    def load(self) -> None:
        """Take over what is on disk. Blocks. Raises ``ConfigurationError``."""
        for found in self._journal.load():
            count = _count(found)
            if count is not None:
                self._own.add(*count)
        self._own.forget(now=minute_of(self._now()))

    async def take(self, decision: Decision) -> Taken:
        """See :meth:`aura_core.permissions.Meter.take`. Raises ``OSError`` where the count cannot
        be kept, and then the call is not made."""
        found = limits(self._holdings.permissions, decision)
        now = self._now()
        minute = minute_of(now)
        check(found, (self._own, self._elsewhere), now=now)
        whats = tuple(dict.fromkeys(limit.what for limit in found if limit.what != TOKENS))
        taken = Taken(whats=whats, minute=minute)
        await self._count(taken, 1)
        return taken

    async def refund(self, taken: Taken) -> None:
        """See :meth:`aura_core.permissions.Meter.refund`."""
        await self._count(taken, -1)

    async def spend(self, tokens: int) -> None:
        """See :meth:`aura_core.permissions.Meter.spend`."""
        if tokens > 0:
            await self._count(Taken(whats=(TOKENS,), minute=minute_of(self._now())), tokens)

    async def settle(self) -> None:
        """Wait until all counts are on the disk; at shutdown."""
        await self._journal.settle()

    def overview(self) -> list[dict[str, Any]]:
        """The agent's limits, and how much of each is used, here and elsewhere."""
        now, sources = self._now(), (self._own, self._elsewhere)
        return [
            {"rule": limit.rule, "most": limit.most, "used": used(limit, sources, now=now)}
            for limit in every_limit(self._holdings.permissions)
        ]

    async def _count(self, taken: Taken, number: int) -> None:
        for what in taken.whats:
            self._own.add(what, taken.minute, number)
        if not taken.whats:
            return
        self._reported = min(self._reported, taken.minute)
        lines = [Count(what, taken.minute, number) for what in taken.whats]
        try:
            await self._journal.append(*lines)
        except OSError:
            if number > 0 and TOKENS not in taken.whats:
                for what in taken.whats:
                    self._own.add(what, taken.minute, -number)
            raise

    def _kept(self) -> Iterable[Count]:
        self._own.forget(now=minute_of(self._now()))
        return self._own.since(0)

    # -- with the control plane

    def report(self) -> dict[str, Any]:
        """What the next heartbeat says: counts by the minute, the first time all, then those from
        the last reported minute on. Empty for an agent without limits."""
        permissions = self._holdings.permissions
        if not permissions.rate_limits and permissions.max_daily_token_spend is None:
            return {}
        now = minute_of(self._now())
        self._own.forget(now=now)
        self._elsewhere.forget(now=now)
        counts = list(islice(self._own.since(max(self._reported, now - DAY)), _AT_ONCE))
        return {"counts": [count._asdict() for count in counts], "since": self._heard}

    def reported(self, report: Mapping[str, Any], answer: Any) -> None:
        """The control plane took the report; ``answer`` is what was used elsewhere. An answer of
        another form changes nothing."""
        minutes = [count["minute"] for count in report.get("counts", ())]
        self._reported = max(minutes, default=self._reported)
        for document in answer if isinstance(answer, list) else ():
            found = document if isinstance(document, dict) else {}
            count = _count([found.get(name) for name in Count._fields])
            if count is not None:
                self._elsewhere.put(*count)
                self._heard = max(self._heard, count.minute)


def _count(found: Any) -> Count | None:
    if not isinstance(found, list) or len(found) != 3:
        return None
    what, minute, number = found
    if not isinstance(what, str) or type(minute) is not int or type(number) is not int:
        return None
    return Count(what, minute, number) if abs(number) < _LARGEST and minute > 0 else None
