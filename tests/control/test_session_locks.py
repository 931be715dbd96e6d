"""Locks by PostgreSQL: one session for each process, which keeps what it holds while it lives."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from aura_control.clients.session_locks import PostgresLocks
from aura_control.ports import LockTaken
from aura_core.errors import RefreshFailed
from tests.postgres import Postgres, running_postgres

_HOLDER = """
import asyncio, sys
from aura_control.clients.session_locks import PostgresLocks
async def main():
    async with PostgresLocks(sys.argv[1]).hold("a"):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.create()


@pytest.fixture
async def locks(url: str) -> AsyncIterator[PostgresLocks]:
    async with a_process(url) as locks:
        yield locks


@pytest.fixture
async def others(url: str) -> AsyncIterator[PostgresLocks]:
    """The locks as another process has them: nothing is shared but the database."""
    async with a_process(url) as locks:
        yield locks


@asynccontextmanager
async def a_process(url: str) -> AsyncIterator[PostgresLocks]:
    locks = PostgresLocks(url)
    try:
        yield locks
    finally:
        await locks.aclose()


@asynccontextmanager
async def holder(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real process that holds the lock ``a``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _HOLDER,
        url,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def sessions(url: str) -> int:
    """How many connections the locks have at the server."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'aura-locks'"
            " AND datname = current_database()"
        ).fetchone()
    return int(row[0]) if row else 0


async def test_one_holder_at_a_time_in_and_between_processes(
    locks: PostgresLocks, others: PostgresLocks
) -> None:
    inside = most = 0

    async def work(mine: PostgresLocks) -> None:
        nonlocal inside, most
        async with mine.hold("a"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(work(mine) for mine in (locks, others) for _ in range(8)))
    assert most == 1


async def test_a_hundred_holders_and_waiters_take_one_connection_each_process(
    url: str, locks: PostgresLocks, others: PostgresLocks
) -> None:
    """Those who wait cannot keep a holder from letting go, nor use up what the server has."""
    async with AsyncExitStack() as stack:
        for number in range(100):
            await stack.enter_async_context(locks.hold(f"n{number}"))
        entered: list[int] = []

        async def want(number: int) -> None:
            async with others.hold(f"n{number}"):
                entered.append(number)

        waiting = [asyncio.create_task(want(number)) for number in range(100)]
        await asyncio.sleep(0)
        async with others.hold("free"):
            assert sessions(url) == 2
            assert entered == []
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)


async def test_who_does_not_want_to_wait_is_told_at_once(
    locks: PostgresLocks, others: PostgresLocks
) -> None:
    async with locks.hold("a"):
        for mine in (locks, others):
            with pytest.raises(LockTaken):
                async with mine.hold("a", wait=0):
                    pytest.fail("two holders")
    async with others.hold("a", wait=0):
        pass


async def test_a_wait_that_was_given_up_leaves_nothing_locked(
    locks: PostgresLocks, others: PostgresLocks
) -> None:
    async def want() -> None:
        async with others.hold("a"):
            await asyncio.Event().wait()

    for turns in range(12):  # wherever it is on its way in
        waiting = asyncio.create_task(want())
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with locks.hold("a", wait=10):
            pass


async def test_killing_the_holder_frees_the_lock(url: str, locks: PostgresLocks) -> None:
    async with holder(url) as process:
        with pytest.raises(LockTaken):
            async with locks.hold("a", wait=0.2):
                pytest.fail("two holders")
        process.send_signal(signal.SIGKILL)
        async with locks.hold("a", wait=20):
            pass


async def test_a_stopped_holder_keeps_the_lock(url: str, locks: PostgresLocks) -> None:
    async with holder(url) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LockTaken):
            async with locks.hold("a", wait=0.5):
                pytest.fail("two holders")


async def test_no_limit_of_the_server_ends_a_holder(url: str, postgres: Postgres) -> None:
    name = url.split("?", maxsplit=1)[0].rsplit("/", 1)[1]
    for setting in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
        postgres.run(f"ALTER DATABASE {name} SET {setting} = '100ms'")
    async with a_process(url) as locks, a_process(url) as others, locks.hold("a"):
        with pytest.raises(LockTaken):
            async with others.hold("a", wait=0.5):
                pytest.fail("two holders")


async def test_a_session_that_broke_is_replaced(url: str, locks: PostgresLocks) -> None:
    async with locks.hold("a"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'aura-locks' AND datname = current_database()"
            )
    with suppress(RefreshFailed):  # learns that it broke
        async with locks.hold("a"):
            pass
    async with locks.hold("a"):
        assert sessions(url) == 1


async def test_a_database_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    async with a_process(f"postgresql://nobody@/none?host={tmp_path}") as locks:
        with pytest.raises(RefreshFailed, match="does not answer"):
            async with locks.hold("a"):
                pytest.fail("held nowhere")
