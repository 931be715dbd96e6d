"""Everybody wants one expired token at once, from four processes."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from aura_control.db.models import ConnectionState
from tests.storms.family_provider import Breaks, Family, FamilyProvider
from tests.storms.refreshing import Process, World

_PROCESSES = 4


async def begun(
    family: Family, stack: AsyncExitStack, stormy: World, callers: int
) -> tuple[list[asyncio.Task[dict[str, int]]], Process, list[Process]]:
    """Four processes whose callers all wait for one that asks the provider: the answers to come,
    that process, and the others."""
    running = await asyncio.gather(
        *(stack.enter_async_context(stormy.process()) for _ in range(_PROCESSES))
    )
    answers = [asyncio.create_task(one.wants(callers // _PROCESSES)) for one in running]
    async with asyncio.timeout(60):
        await family.reached.wait()
    holder = next(one for one in running if one.pid == family.calls[0])
    return answers, holder, [one for one in running if one is not holder]


async def storm(stormy: World, provider: FamilyProvider, *, callers: int, stopped: float) -> None:
    """The holder is stopped in its call and goes on ``stopped`` seconds later, when its answer has
    been waiting for it for half of that time."""
    family = provider.family("storm", hold="after")
    await stormy.connect(family)
    async with AsyncExitStack() as stack:
        answers, holder, _ = await begun(family, stack, stormy, callers)
        holder.signal(signal.SIGSTOP)
        await asyncio.sleep(stopped / 2)
        family.opened.set()
        await asyncio.sleep(stopped / 2)
        assert family.calls == [holder.pid]
        assert not any(answer.done() for answer in answers)
        holder.signal(signal.SIGCONT)
        async with asyncio.timeout(120):
            told: Counter[str] = sum(map(Counter, await asyncio.gather(*answers)), Counter())
    assert len(family.calls) == 1
    assert list(told.values()) == [callers], told
    row, secrets = (await stormy.found())["storm"]
    assert row.state is ConnectionState.CONNECTED
    assert set(secrets.values()) == family.alive - _first(family)


def _first(family: Family) -> set[str]:
    """The access token that was there before lives on at this provider."""
    return {token for token in family.alive if token.startswith(f"access_token-{family.name}-0-")}


async def killed(stormy: World, provider: FamilyProvider, *, callers: int, bears: bool) -> None:
    """The holder dies in its call, after the provider has acted."""
    family = provider.family("storm", bears_reuse=bears, hold="after")
    await stormy.connect(family)
    async with AsyncExitStack() as stack:
        answers, holder, _ = await begun(family, stack, stormy, callers)
        family.hold = None
        holder.signal(signal.SIGKILL)
        async with asyncio.timeout(60):
            ended = await asyncio.gather(*answers, return_exceptions=True)
    told: Counter[str] = sum((Counter(one) for one in ended if isinstance(one, dict)), Counter())
    assert sum(told.values()) == callers * (_PROCESSES - 1) // _PROCESSES
    row, secrets = (await stormy.found())["storm"]
    if bears:
        assert len(told) == 1, told
        assert len(family.calls) == 2
        assert row.state is ConnectionState.CONNECTED
        assert set(secrets.values()) <= family.alive
    else:
        assert all(answer.startswith("ReauthorizationRequired") for answer in told), told
        assert len(family.calls) == 1, "a second use would be an attack in the provider's eyes"
        assert row.state is ConnectionState.REAUTH_REQUIRED
        assert "lost" in str(row.reason)


async def test_a_hundred_callers_and_a_stopped_holder_make_one_call(
    stormy: World, provider: FamilyProvider
) -> None:
    await storm(stormy, provider, callers=100, stopped=1.0)


@pytest.mark.parametrize(
    ("stormy", "bears"),
    [
        pytest.param("sqlite", True, id="sqlite, grace"),
        pytest.param("postgresql", False, id="postgresql, once"),
    ],
    indirect=["stormy"],
)
async def test_a_hundred_callers_outlive_a_killed_holder(
    stormy: World, provider: FamilyProvider, bears: bool
) -> None:
    await killed(stormy, provider, callers=100, bears=bears)


@pytest.mark.parametrize(
    ("stormy", "bears"),
    [
        pytest.param("postgresql", True, id="postgresql, grace"),
        pytest.param("sqlite", False, id="sqlite, once"),
    ],
    indirect=["stormy"],
)
async def test_a_connection_that_ends_after_the_provider_acted(
    stormy: World, provider: FamilyProvider, bears: bool
) -> None:
    family, told = await broken(stormy, provider, "connection", bears=bears)
    row, secrets = (await stormy.found())["storm"]
    assert sum(told.values()) == 100
    if bears:
        assert len(told) == 1, told
        assert len(family.calls) == 2
        assert row.state is ConnectionState.CONNECTED
        assert set(secrets.values()) <= family.alive
    else:
        assert all(answer.startswith("ReauthorizationRequired") for answer in told), told
        assert len(family.calls) == 1
        assert row.state is ConnectionState.REAUTH_REQUIRED
        assert "lost" in str(row.reason)


@pytest.mark.parametrize("stormy", ["sqlite", "postgresql"], indirect=True)
async def test_garbage_overwrites_nothing_and_is_asked_for_once(
    stormy: World, provider: FamilyProvider
) -> None:
    """Three processes wait for the one that gets it, and do not ask in their turn."""
    family, told = await broken(stormy, provider, "answer", bears=False)
    assert sum(told.values()) == 100
    assert all(answer.startswith("RefreshFailed") for answer in told), told
    assert len(family.calls) == 1
    row, secrets = (await stormy.found())["storm"]
    assert row.state is ConnectionState.UNCERTAIN
    assert "no document that could be read" in str(row.reason)
    assert all("storm-0-" in token for token in secrets.values()), "what was there before"


async def broken(
    stormy: World, provider: FamilyProvider, breaks: Breaks, *, bears: bool
) -> tuple[Family, Counter[str]]:
    """A hundred callers of four processes and a provider that breaks what it answers first: what
    they are told."""
    family = provider.family("storm", bears_reuse=bears, hold="after")
    family.breaks = breaks
    await stormy.connect(family)
    async with AsyncExitStack() as stack:
        answers, _, _ = await begun(family, stack, stormy, 100)
        family.hold = None
        family.opened.set()
        async with asyncio.timeout(60):
            told = await asyncio.gather(*answers)
    return family, sum(map(Counter, told), Counter())


@pytest.mark.storm
async def test_a_thousand_callers_a_slow_provider_and_a_stopped_holder_make_one_call(
    stormy: World, provider: FamilyProvider
) -> None:
    """Longer than every time-out there is: the client's 20 s between reads, the database's 30 s
    for a statement or a lock, and the 60 s that a call may take."""
    await storm(stormy, provider, callers=1000, stopped=70.0)


@pytest.mark.storm
async def test_a_thousand_callers_wait_for_a_provider_slower_than_every_time_out(
    stormy: World, provider: FamilyProvider
) -> None:
    provider.delay = 40.0
    family = provider.family("storm")
    await stormy.connect(family)
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(stormy.process()) for _ in range(_PROCESSES)]
        told = await asyncio.gather(*(one.wants(1000 // _PROCESSES) for one in running))
    assert len(family.calls) == 1
    assert sum(map(Counter, told), Counter()).most_common(1)[0][1] == 1000


@pytest.mark.storm
@pytest.mark.parametrize("bears", [False, True], ids=["once", "grace"])
async def test_a_thousand_callers_outlive_a_killed_holder(
    stormy: World, provider: FamilyProvider, bears: bool
) -> None:
    await killed(stormy, provider, callers=1000, bears=bears)
