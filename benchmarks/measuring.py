"""Figures: samples of two sides, taken by turns, and what is told of them.

Both sides run on the same machine within the same second, so what slows one slows the other: a
ratio can be compared between machines and days where a time cannot. Each round has a ratio of its
own; the median of those is the figure, and the least and the most say how far to trust it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Effort", "Figure", "Spread", "by_turns", "by_turns_async", "figure", "milliseconds"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured: rounds for each figure, and calls in a round where one is too short."""

    rounds: int
    calls: int

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.calls < 1:
            raise ValueError("rounds and calls are at least 1")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, least and most of some samples."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        return cls(median=statistics.median(samples), least=min(samples), most=max(samples))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """``ratio`` is Aura's to the limit's, so 1 is the limit, and less is better."""

    name: str
    limit: str
    """What Aura is compared with, in words."""
    unit: str
    ratio: Spread
    aura: Spread
    bare: Spread
    rounds: int


def figure(
    name: str, *, limit: str, unit: str, aura: Sequence[float], bare: Sequence[float]
) -> Figure:
    """Make a figure of samples in pairs: the first of both were taken in the same round."""
    ratios = [ours / theirs for ours, theirs in zip(aura, bare, strict=True)]
    return Figure(
        name=name,
        limit=limit,
        unit=unit,
        ratio=Spread.of(ratios),
        aura=Spread.of(aura),
        bare=Spread.of(bare),
        rounds=len(ratios),
    )


def by_turns(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """One sample of each side in turn, ``rounds`` times; a list of samples for each side.

    A first round is thrown away: it fills caches (bytecode, pages, branch predictors) that only
    one of the sides might find filled.
    """
    samples = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [list(column) for column in zip(*samples, strict=True)]


async def by_turns_async(rounds: int, *sides: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """:func:`by_turns` for sides that wait."""
    samples = [[await side() for side in sides] for _ in range(rounds + 1)][1:]
    return [list(column) for column in zip(*samples, strict=True)]


def milliseconds(work: Callable[[], Any], *, calls: int) -> Callable[[], float]:
    """A side that takes ``calls`` times ``work``; its samples are milliseconds for one."""

    def sample() -> float:
        gc.collect()
        began = time.perf_counter_ns()
        for _ in range(calls):
            work()
        return (time.perf_counter_ns() - began) / calls / 1e6

    return sample
