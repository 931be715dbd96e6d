"""The rate limit is never exceeded, whatever the order of requests and answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from aura_plugin_hetzner.pace import Pace, RetryBudget, Turn
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.errors import RateLimited
from tests.fakes.hetzner.clock import VirtualClock
from tests.fakes.hetzner.project import Problem, Project


@dataclass
class World:
    """A line of requests to a project: sent, counted by Hetzner later, answered later still."""

    project: Project
    pace: Pace
    asking: list[asyncio.Task[Turn]] = field(default_factory=list)
    sent: list[Turn] = field(default_factory=list)
    counted: list[tuple[Turn, dict[str, str]]] = field(default_factory=list)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        self.sent += [task.result() for task in self.asking if task.done()]
        self.asking = [task for task in self.asking if not task.done()]

    async def step(self, what: str, which: int) -> None:
        if what == "ask":
            self.asking.append(asyncio.create_task(self.pace.turn()))
        elif what == "count" and self.sent:
            turn = self.sent.pop(which % len(self.sent))
            self.counted.append((turn, self.project.charge()))  # raises beyond the limit
        elif what == "answer" and self.counted:
            self.pace.answered(*self.counted.pop(which % len(self.counted)))
        await self.settle()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "count", "count", "answer", "answer", "wait"]),
        st.integers(0, 20),
    ),
    min_size=40,
    max_size=120,
)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS, left=st.integers(2, 12), hourly=st.sampled_from([20, 60]))
async def test_hetzner_never_has_to_refuse(
    steps: list[tuple[str, int]], left: int, hourly: int
) -> None:
    clock = VirtualClock()
    project = Project(clock=clock.monotonic, hourly=hourly)
    project.spend(max(0, hourly - left))
    world = World(project, Pace(clock=clock, longest_wait=1e9))
    for what, which in steps:
        if what == "wait":
            clock.advance(float(which))
        await world.step(what, which)
    for task in world.asking:
        task.cancel()
    await asyncio.gather(*world.asking, return_exceptions=True)


async def test_the_first_request_goes_alone() -> None:
    pace = Pace(clock=VirtualClock())
    turns = [asyncio.create_task(pace.turn()) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [turn.done() for turn in turns] == [True, False, False, False, False]
    pace.answered(turns[0].result(), {"RateLimit-Limit": "3600", "RateLimit-Remaining": "3000"})
    await asyncio.gather(*turns)


async def test_a_wait_that_is_too_long_says_how_long() -> None:
    clock = VirtualClock()
    pace = Pace(clock=clock, longest_wait=30)
    turn = await pace.turn()
    pace.answered(turn, {"RateLimit-Limit": "3600", "RateLimit-Remaining": "0"})
    with pytest.raises(RateLimited, match=r"of 3600 requests an hour.*about 37 seconds") as e:
        await pace.turn()
    # One request, and the hundredth that is left to others.
    assert e.value.retry_after == pytest.approx(37, abs=0.1)
    clock.advance(36)
    async with clock.running():
        await pace.turn()
    assert clock.now == pytest.approx(1_037, abs=0.1)


async def granted_at_once(pace: Pace) -> int:
    """How many requests may be sent before one has to wait."""
    turns = [asyncio.create_task(pace.turn()) for _ in range(30)]
    for _ in range(40):
        await asyncio.sleep(0)
    granted = sum(turn.done() for turn in turns)
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)
    return granted


async def with_ten_left() -> Pace:
    pace = Pace(clock=VirtualClock(), longest_wait=1e9)
    pace.answered(await pace.turn(), headers(10))
    return pace


def headers(remaining: int) -> dict[str, str]:
    return {"RateLimit-Limit": "20", "RateLimit-Remaining": str(remaining)}


async def test_an_answer_does_not_know_of_requests_under_way() -> None:
    pace = await with_ten_left()
    first, *_ = [await pace.turn() for _ in range(5)]
    pace.answered(first, headers(9))
    # Ten, less five; a fifth of one is left to others, so the fifth of the rest has to wait.
    assert await granted_at_once(pace) == 4


async def test_an_older_answer_that_was_overtaken_does_not_count() -> None:
    pace = await with_ten_left()
    first, second = await pace.turn(), await pace.turn()
    pace.answered(second, headers(4))
    pace.answered(first, headers(9))
    assert await granted_at_once(pace) == 2


async def test_what_comes_back_does_not_pile_up_beyond_the_limit() -> None:
    clock = VirtualClock()
    pace = Pace(clock=clock, longest_wait=1e9)
    pace.answered(await pace.turn(), headers(10))
    clock.advance(1e6)
    assert await granted_at_once(pace) == 19


async def test_an_answer_among_others_may_lower_what_is_left() -> None:
    pace = await with_ten_left()
    first, second = await pace.turn(), await pace.turn()
    pace.answered(first, headers(4))
    pace.answered(second, headers(3))
    assert await granted_at_once(pace) == 2


async def test_what_others_spend_is_seen_in_the_next_answer() -> None:
    clock = VirtualClock()
    project = Project(clock=clock.monotonic, hourly=100)
    pace = Pace(clock=clock, longest_wait=1e9)
    pace.answered(await pace.turn(), project.charge())
    project.spend(95)
    pace.answered(await pace.turn(), project.charge())
    for _ in range(2):
        pace.answered(await pace.turn(), project.charge())
    waiting = asyncio.create_task(pace.turn())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_somebody_who_gives_up_waiting_does_not_hold_up_the_others() -> None:
    clock = VirtualClock()
    pace = Pace(clock=clock)
    pace.answered(await pace.turn(), {"RateLimit-Limit": "3600", "RateLimit-Remaining": "0"})
    first, second = asyncio.create_task(pace.turn()), asyncio.create_task(pace.turn())
    await asyncio.sleep(0)
    first.cancel()
    async with clock.running():
        await second


def test_an_answer_without_headers_changes_nothing_but_the_count() -> None:
    pace = Pace(clock=VirtualClock())
    pace.answered(Turn(number=1, alone=True), {})
    pace.answered(Turn(number=1, alone=True), {"RateLimit-Limit": "x", "RateLimit-Remaining": "1"})
    assert pace._limit is None


def test_one_request_in_five_may_be_a_repeat() -> None:
    budget = RetryBudget(most=3, share=0.2)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    for _ in range(5):
        budget.first()
    assert [budget.spend() for _ in range(2)] == [True, False]


def test_hetzner_refuses_what_is_beyond_its_limit() -> None:
    """So that the law above can fail."""
    project = Project(clock=VirtualClock().monotonic, hourly=20)
    for _ in range(20):
        project.charge()
    with pytest.raises(Problem):
        project.charge()
