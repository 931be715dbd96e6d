"""Counting calls and tokens against an agent's limits: pure, so that both sides do it alike.

Counts are kept by the minute. A window is the minute of now and the 60 (or 1,440) before it, which
holds every moment of the last hour (or day) whole: a limit of ten an hour lets through at most ten
in any sixty minutes, and what was used is free again after 60 to 61 of them. Memory is bounded by
the window, however high the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from aura_core.errors import LimitReached, PermissionDenied
from aura_core.permissions._judge import Decision
from aura_core.permissions._model import AgentPermissions

__all__ = [
    "DAY",
    "HOUR",
    "TOKENS",
    "Count",
    "Counts",
    "Limit",
    "check",
    "every_limit",
    "limits",
    "minute_of",
    "used",
]

HOUR, DAY = 60, 1440
"""Windows, in minutes."""

TOKENS = "tokens"
"""What tokens are counted under; no scope is called so, because a scope holds a colon."""


class Count(NamedTuple):
    """``number`` calls that needed the scope ``what`` (or tokens) in one minute since 1970."""

    what: str
    minute: int
    number: int


class Counts:
    """What was used in the last day, by the minute."""

    def __init__(self, counts: Iterable[Count] = ()) -> None:
        self._minutes: dict[str, dict[int, int]] = {}
        for count in counts:
            self.add(*count)

    def add(self, what: str, minute: int, number: int) -> None:
        """Count ``number`` more, or with a negative one take back."""
        minutes = self._minutes.setdefault(what, {})
        minutes[minute] = max(0, minutes.get(minute, 0) + number)

    def put(self, what: str, minute: int, number: int) -> None:
        """Replace what is known of one minute."""
        self._minutes.setdefault(what, {})[minute] = number

    def of(self, what: str, *, since: int) -> dict[int, int]:
        """Minute to number, from the minute ``since`` on."""
        found = self._minutes.get(what, {}).items()
        return {minute: number for minute, number in found if minute >= since and number}

    def since(self, minute: int) -> Iterator[Count]:
        """All from that minute on, oldest first."""
        found = (
            Count(what, when, number)
            for what, minutes in self._minutes.items()
            for when, number in minutes.items()
            if when >= minute
        )
        return iter(sorted(found, key=lambda count: (count.minute, count.what)))

    def forget(self, *, now: int) -> None:
        """Drop what no window holds. A minute far ahead comes of a clock that was wrong: kept, it
        would count for as long as that clock was ahead."""
        for what, minutes in list(self._minutes.items()):
            kept = {m: n for m, n in minutes.items() if now - DAY <= m <= now + DAY}
            self._minutes[what] = kept
            if not kept:
                del self._minutes[what]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At most ``most`` of ``what`` in ``minutes``; ``rule`` is the name that a refusal gives."""

    what: str
    most: int
    minutes: int
    rule: str


def minute_of(now: datetime) -> int:
    """The minute since 1970 that a moment lies in."""
    return int(now.timestamp() // 60)


def limits(permissions: AgentPermissions, decision: Decision) -> tuple[Limit, ...]:
    """The limits that one call is under."""
    found = [limit for scope in decision.needs for limit in _of_scope(permissions, scope)]
    if decision.usage is not None:
        found += _of_tokens(permissions)
    return tuple(found)


def every_limit(permissions: AgentPermissions) -> tuple[Limit, ...]:
    """All limits of an agent."""
    calls = (
        one for scope in sorted(permissions.rate_limits) for one in _of_scope(permissions, scope)
    )
    return (*calls, *_of_tokens(permissions))


def _of_scope(permissions: AgentPermissions, scope: str) -> Iterator[Limit]:
    allowed = permissions.rate_limits.get(scope)
    if allowed is None:
        return
    for most, minutes, name in (
        (allowed.max_per_hour, HOUR, "hour"),
        (allowed.max_per_day, DAY, "day"),
    ):
        if most is not None:
            yield Limit(what=scope, most=most, minutes=minutes, rule=f"rate:{scope}:{name}")


def _of_tokens(permissions: AgentPermissions) -> Iterator[Limit]:
    budget = permissions.max_daily_token_spend
    if budget is not None:
        yield Limit(what=TOKENS, most=budget, minutes=DAY, rule="spend:day")


def used(limit: Limit, counts: Iterable[Counts], *, now: datetime) -> int:
    """How much of a limit all ``counts`` together have used."""
    return sum(_window(limit, counts, now).values())


def check(found: Iterable[Limit], counts: Iterable[Counts], *, now: datetime) -> None:
    """Raises :class:`LimitReached` when one of the limits is used up by all ``counts`` together;
    of several, for the one that lasts longest."""
    sources = tuple(counts)
    worst: tuple[float, Limit] | None = None
    for limit in found:
        wait = _wait(limit, sources, now)
        if wait > 0 and (worst is None or wait > worst[0]):
            worst = wait, limit
    if worst is not None:
        raise _reached(worst[1], worst[0])


def _wait(limit: Limit, sources: tuple[Counts, ...], now: datetime) -> float:
    """Seconds until the limit leaves room; 0 where there is some, infinite where there never is."""
    minutes = _window(limit, sources, now)
    left = sum(minutes.values())
    if left < limit.most:
        return 0.0
    for minute in sorted(minutes):
        left -= minutes[minute]
        if left < limit.most:
            return (minute + limit.minutes + 1) * 60 - now.timestamp()
    return math.inf


def _window(limit: Limit, counts: Iterable[Counts], now: datetime) -> dict[int, int]:
    since = minute_of(now) - limit.minutes
    minutes: dict[int, int] = {}
    for source in counts:
        for minute, number in source.of(limit.what, since=since).items():
            minutes[minute] = minutes.get(minute, 0) + number
    return minutes


def _reached(limit: Limit, wait: float) -> PermissionDenied:
    if limit.what == TOKENS:
        message = f"This agent may spend {limit.most} tokens in 24 hours, and they are spent."
        hint = "Its owner can raise max_daily_token_spend."
    else:
        length = "hour" if limit.minutes == HOUR else "24 hours"
        message = f"This agent may make {limit.most} calls with {limit.what} in any {length}."
        hint = f"Its owner can raise the limit of {limit.what}."
    if math.isinf(wait):
        return PermissionDenied(message, rule=limit.rule, hint=hint)
    seconds = max(1.0, math.ceil(wait))
    again = f" It may again in {_spoken(seconds)}."
    return LimitReached(message + again, rule=limit.rule, retry_after=seconds, hint=hint)


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
