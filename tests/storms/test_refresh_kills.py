"""kill -9 at every step of a refresh: what another process finds, and what becomes of it.

With a provider that bears the same token twice nothing is lost. With one that takes it once, the
user is asked within 30 seconds wherever the token may be spent. Never is a connection called
connected whose tokens are dead.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState
from tests.storms.family_provider import Family, FamilyProvider
from tests.storms.refreshing import Process, World, started
from tests.storms.refreshing_process import STEPS

_AT_THE_PROVIDER = {"asked": "before", "acted": "after"}
_BEFORE_THE_INTENT = "locked"
_AFTER_ALL = "committed"
_PROMISED = 30.0


def family_for(provider: FamilyProvider, name: str, step: str, *, bears: bool) -> Family:
    hold = {"asked": "before", "acted": "after"}.get(step)
    family = provider.family(name, bears_reuse=bears)
    if hold is not None:
        family.hold = "before" if hold == "before" else "after"
    return family


@asynccontextmanager
async def victim(
    stormy: World, steps: Mapping[str, str], standby: Process | None = None
) -> AsyncIterator[Process]:
    """A process that sweeps, and has come to the step of each family."""
    own = {name: step for name, step in steps.items() if step not in _AT_THE_PROVIDER}
    running = stormy.process(sweeps=True, stops=own, standby=standby)
    async with running as process, asyncio.timeout(60):
        said = [(await process.said())["at"] for _ in own]
        assert sorted(said) == sorted(own.values())
        for name in steps.keys() - own.keys():
            await stormy.provider.families[name].reached.wait()
        yield process


async def settled(stormy: World, since: float) -> dict[str, tuple[Connection, dict[str, str]]]:
    """The connections once none of them is open or due; within the promised time."""
    while True:
        found = await stormy.found()
        rows = [row for row, _ in found.values()]
        if all(row.refresh_generation is None for row in rows) and all(
            row.renew_at is None or row.renew_at > row.updated_at for row in rows
        ):
            return found
        assert time.monotonic() - since < _PROMISED, [(row.provider, row.state) for row in rows]
        await asyncio.sleep(0.1)


def judged(family: Family, step: str, row: Connection, secrets: Mapping[str, str]) -> None:
    keeps = family.bears_reuse or step in (_BEFORE_THE_INTENT, _AFTER_ALL)
    if keeps:
        assert row.state is ConnectionState.CONNECTED, (step, row.reason)
        assert set(secrets.values()) <= family.alive, f"{step}: silently dead"
    else:
        assert row.state is ConnectionState.REAUTH_REQUIRED, step
        assert "lost" in str(row.reason)
        assert len(family.calls) <= 1, "the same token was presented twice"


async def kill_and_look(stormy: World, steps: Mapping[str, str]) -> None:
    """Kills a process at the steps, and lets another one find what it left."""
    async with victim(stormy, steps) as process:
        process.signal(signal.SIGKILL)
        await process.ended()
    for name in steps:
        stormy.provider.families[name].hold = None
        stormy.provider.families[name].opened.set()
    since = time.monotonic()
    async with stormy.process(sweeps=True):
        found = await settled(stormy, since)
    for name, step in steps.items():
        judged(stormy.provider.families[name], step, *found[name])


async def test_killed_at_every_step_at_once(stormy: World, provider: FamilyProvider) -> None:
    """One process in the middle of many renewals, one at each step and of each kind."""
    steps = {}
    # About its commit a process stands still as a whole, or keeps others from writing: see below.
    for step in STEPS[: STEPS.index("committing")]:
        for bears in (False, True):
            name = f"{step}_{'grace' if bears else 'once'}"
            await stormy.connect(family_for(provider, name, step, bears=bears))
            steps[name] = step
    await kill_and_look(stormy, steps)


@pytest.mark.parametrize(
    ("stormy", "step", "bears"),
    [
        pytest.param("sqlite", "committing", True, id="sqlite, before, grace"),
        pytest.param("postgresql", "committing", False, id="postgresql, before, once"),
        pytest.param("postgresql", "committed", False, id="postgresql, after, once"),
    ],
    indirect=["stormy"],
)
async def test_killed_about_its_commit(
    stormy: World, provider: FamilyProvider, step: str, bears: bool
) -> None:
    await stormy.connect(family_for(provider, "alone", step, bears=bears))
    await kill_and_look(stormy, {"alone": step})


@pytest.mark.parametrize("stormy", ["sqlite"], indirect=True)
async def test_a_living_process_takes_up_what_a_killed_one_left(
    stormy: World, provider: FamilyProvider
) -> None:
    """Without a start in between: its next look finds the open intent."""
    await stormy.connect(family_for(provider, "once", "acted", bears=False))
    async with victim(stormy, {"once": "acted"}) as process, stormy.process(sweeps=True):
        process.signal(signal.SIGKILL)
        await process.ended()
        found = await settled(stormy, time.monotonic())
    judged(provider.families["once"], "acted", *found["once"])


@pytest.mark.storm
@pytest.mark.parametrize("seed", [1, 2])
async def test_two_hundred_kills(stormy: World, provider: FamilyProvider, seed: int) -> None:
    """Fifty for each seed on each database, at steps drawn from it, next to three processes that
    live on, sweep, and all find what the fourth left at the same time."""
    drawn, kills = random.Random(seed), []
    for number in range(50):
        step, bears = drawn.choice(STEPS), drawn.random() < 0.5
        kills.append((family_for(provider, f"kill{number}", step, bears=bears), step))
        stormy.describe(kills[-1][0])
    async with AsyncExitStack() as stack:
        survivors = [await stack.enter_async_context(stormy.process(sweeps=True)) for _ in range(3)]
        standby = await _standby(stack)
        for family, step in kills:
            await _dies(survivors, stormy, family, step, standby)
            standby = await _standby(stack)
            since = time.monotonic()
            for one in survivors:
                one.sweep()
                one.signal(signal.SIGCONT)
            found = await settled(stormy, since)
            judged(family, step, *found[family.name])


async def _standby(stack: AsyncExitStack) -> Process:
    """The next victim, which starts while the survivors are at work."""
    process = await started()
    stack.push_async_callback(process.end)
    return process


async def _dies(
    survivors: Sequence[Process], stormy: World, family: Family, step: str, standby: Process
) -> None:
    """A process dies at the step, and the others have not seen any of it."""
    for one in survivors:
        one.signal(signal.SIGSTOP)
    await stormy.connect(family)
    async with victim(stormy, {family.name: step}, standby) as process:
        process.signal(signal.SIGKILL)
        await process.ended()
    family.hold = None
    family.opened.set()
