"""A task may be cancelled at any moment: nothing stays locked, open or half done."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from aura_control.clients.locks import FileLocks
from aura_control.clients.session_locks import PostgresLocks
from aura_control.db.columns import new_id
from aura_control.db.engine import Database, open_engine
from tests.cancellation import cancelled_everywhere
from tests.control.db.conftest import audit_key
from tests.postgres import Postgres


async def write(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.tenants.create(tenant_id=new_id(), name="", kdf_salt=bytes(32), actor="system")


async def read(database: Database) -> None:
    async with database.reading() as tx:
        await tx.session.execute(text("SELECT id FROM tenants"))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database.open(url, audit_key=audit_key)
    try:
        yield database
    finally:
        await database.close()


def files_open(url: str) -> list[str]:
    """Which of this process's files lie beside the SQLite database ``url``."""
    directory = Path(url.removeprefix("sqlite:///")).parent
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            path = link.readlink()
        except FileNotFoundError:
            continue
        if path.is_relative_to(directory):
            found.append(path.name)
    return found


async def sessions_open(url: str) -> int:
    """How many sessions the PostgreSQL database has beside the one that asks."""
    engine = open_engine(url)
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    try:
        async with engine.connect() as connection:
            return int((await connection.execute(text(asked))).scalar_one()) - 1
    finally:
        await engine.dispose()


async def until_closed(url: str) -> None:
    """A closed connection is gone only when its thread, or the server's process, has ended."""
    gc.collect()
    async with asyncio.timeout(60):
        # The end of a thread or a process of somebody else is no event here.
        while files_open(url) if "sqlite" in url else await sessions_open(url):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("work", [write, read])
async def test_the_first_transaction_of_a_process(
    url: str, work: Callable[[Database], Awaitable[None]]
) -> None:
    """Cancelled while it connects, or at any moment later."""
    kept = []

    async def first() -> None:
        async with opened(url) as database:
            await work(database)

    async for task in cancelled_everywhere(first):
        kept.append(task)
        async with opened(url) as other, asyncio.timeout(60):
            await write(other)
    assert len(kept) > 10
    assert not kept[-1].cancelled()
    kept.clear()
    await until_closed(url)


@pytest.mark.parametrize("work", [write, read])
async def test_one_transaction_of_many(
    url: str, work: Callable[[Database], Awaitable[None]]
) -> None:
    kept = []
    async with opened(url) as database:
        await write(database)
        async for task in cancelled_everywhere(lambda: work(database)):
            kept.append(task)
            async with asyncio.timeout(60):
                await write(database)
        assert kept[0].cancelled()
        assert not kept[-1].cancelled()
    kept.clear()
    await until_closed(url)


async def test_a_lock_of_postgres(postgres: Postgres) -> None:
    url = postgres.create(template=None)
    locks = PostgresLocks(url)

    async def hold() -> None:
        async with locks.hold("a"):
            pass

    try:
        async for _ in cancelled_everywhere(hold):
            async with asyncio.timeout(60):
                await hold()
    finally:
        await locks.aclose()
    await until_closed(url)


async def test_a_lock_of_files(tmp_path: Path) -> None:
    async def hold() -> None:
        async with FileLocks(tmp_path).hold("a"):
            await asyncio.sleep(0)

    async for _ in cancelled_everywhere(hold):
        async with asyncio.timeout(60):
            await hold()
