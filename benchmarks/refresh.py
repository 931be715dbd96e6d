"""One token renewed: lock, durable intent, the call, the new tokens sealed and committed.

Two limits: the bare token call, which is what any refresh takes; and that with a small commit
before and one after it, which is what any refresh takes that cannot lose tokens by a crash. Both
sides call the same provider, in a process of its own, over kept connections, and a commit that
returned is on the disk. With many at once, SQLite's commits wait for each other: it has one writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import httpx
from psycopg import AsyncConnection

from aura_core.api import http_client
from benchmarks.measuring import Effort, Figure, by_turns_async, figure
from benchmarks.processes import bare_process
from benchmarks.refreshing import Refreshing, refreshing
from tests.postgres import running_postgres

__all__ = ["measure"]

_AT_ONCE = 16
_SUSTAINED_AT_ONCE = 32
"""As many as a sweep asks one provider for at the same time."""
_SUSTAINED = 128
_SESSIONS = 15
"""What a pool of the control plane holds at the most."""
_FORM = {"grant_type": "refresh_token", "refresh_token": "r" * 64, "client_id": "aura"}
_COMMITS = "that, a commit before and one after"

Work = Callable[[int], Awaitable[None]]
"""One refresh, of the connection with that number."""
Side = Callable[[], Awaitable[float]]


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for one refresh: alone, as one of sixteen, and of very many, one after the other
    by 32 at once, which is what one process sustains."""
    return asyncio.run(_measure(effort))


async def _measure(effort: Effort) -> Sequence[Figure]:
    found: list[Figure] = []
    count = _SUSTAINED if effort.calls > _AT_ONCE else _AT_ONCE
    with tempfile.TemporaryDirectory(prefix="aura-") as name, running_postgres(durable=True) as pg:
        async with bare_process(Path(name)) as bare, http_client() as http:
            origin = f"http://{bare.status}"
            for database, url in (("SQLite", None), ("PostgreSQL", pg.create())):
                home = Path(name) / database
                home.mkdir()
                async with AsyncExitStack() as stack:
                    world = await stack.enter_async_context(
                        refreshing(home, origin, http, url=url, count=count)
                    )
                    commits = _sqlite(home / "bare.db") if url is None else _postgresql(pg.create())
                    stored = _stored(http, origin, await stack.enter_async_context(commits))
                    found += await _of(effort, database, world, _call(http, origin), stored)
    return found


async def _of(
    effort: Effort, database: str, world: Refreshing, call: Work, stored: Work
) -> Sequence[Figure]:
    rounds, calls, many = effort.rounds, effort.calls, len(world.connections)
    alone = await by_turns_async(
        rounds,
        _side(world.refresh, calls, 1, world),
        _side(call, calls, 1),
        _side(stored, calls, 1),
    )
    together = await by_turns_async(
        rounds, _side(world.refresh, calls, _AT_ONCE, world), _side(stored, calls, _AT_ONCE)
    )
    sustained = await by_turns_async(
        rounds,
        _side(world.refresh, many, _SUSTAINED_AT_ONCE, world),
        _side(stored, many, _SUSTAINED_AT_ONCE),
    )
    named = f"{database}, {{}}".format
    return [
        figure(named("one"), limit="httpx, POST /token", unit="ms", aura=alone[0], bare=alone[1]),
        figure(named("one, durable"), limit=_COMMITS, unit="ms", aura=alone[0], bare=alone[2]),
        figure(
            named(f"{_AT_ONCE} at once"),
            limit=_COMMITS,
            unit="ms",
            aura=together[0],
            bare=together[1],
        ),
        figure(named("sustained"), limit=_COMMITS, unit="ms", aura=sustained[0], bare=sustained[1]),
    ]


def _side(work: Work, calls: int, at_once: int, world: Refreshing | None = None) -> Side:
    """Milliseconds for each of ``calls`` refreshes, ``at_once`` under way at any time; no
    connection is renewed twice without the clock's going on."""
    lap = calls if world is None else len(world.connections)

    async def one_after_the_other(numbers: list[int]) -> None:
        while numbers:
            await work(numbers.pop())

    async def sample() -> float:
        began = time.perf_counter_ns()
        for first in range(0, calls, lap):
            if world is not None:
                world.forward()
            numbers = list(range(min(lap, calls - first)))
            await asyncio.gather(*(one_after_the_other(numbers) for _ in range(at_once)))
        return (time.perf_counter_ns() - began) / calls / 1e6

    return sample


def _call(http: httpx.AsyncClient, origin: str) -> Work:
    async def call(_: int) -> None:
        answer = await http.post(f"{origin}/token", data=_FORM)
        answer.json()

    return call


Commit = Callable[[int, str], Awaitable[None]]
"""Stores a value under a number, and returns when it is on the disk."""


def _stored(http: httpx.AsyncClient, origin: str, commit: Commit) -> Work:
    async def refresh(number: int) -> None:
        await commit(number, "begun")
        answer = await http.post(f"{origin}/token", data=_FORM)
        await commit(number, answer.text)

    return refresh


@asynccontextmanager
async def _sqlite(path: Path) -> AsyncIterator[Commit]:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    turn = asyncio.Lock()

    def write(number: int, value: str) -> None:
        connection.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?)", (number, value))

    async def commit(number: int, value: str) -> None:
        async with turn:
            await asyncio.to_thread(write, number, value)

    with closing(connection):
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "CREATE TABLE tokens (id INTEGER PRIMARY KEY, value TEXT)",
        ):
            connection.execute(statement)
        yield commit


@asynccontextmanager
async def _postgresql(url: str) -> AsyncIterator[Commit]:
    free: asyncio.LifoQueue[AsyncConnection] = asyncio.LifoQueue()

    async def commit(number: int, value: str) -> None:
        connection = await free.get()
        try:
            await connection.execute(
                "INSERT INTO tokens VALUES (%s, %s)"
                " ON CONFLICT (id) DO UPDATE SET value = excluded.value",
                (number, value),
            )
        finally:
            free.put_nowait(connection)

    async with AsyncExitStack() as stack:
        for _ in range(_SESSIONS):
            connection = await AsyncConnection.connect(url, autocommit=True)
            stack.push_async_callback(connection.close)
            free.put_nowait(connection)
        await connection.execute("CREATE TABLE tokens (id INTEGER PRIMARY KEY, value TEXT)")
        yield commit
