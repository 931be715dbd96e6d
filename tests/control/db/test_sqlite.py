"""One hand-over to SQLite's thread for each statement, whatever it answers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from aura_control.db import sqlite
from aura_control.db.engine import open_engine

MANY = 1000


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    opened = await sqlite.connect(tmp_path / "aura.db", wait_seconds=5)
    try:
        cursor = await opened.cursor()
        await cursor.execute("CREATE TABLE numbers (n INTEGER)")
        await cursor.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(MANY)])
        await opened.commit()
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was given to a connection's thread."""
    seen: list[object] = []
    real: Any = aiosqlite.Connection._execute

    async def counting(self: aiosqlite.Connection, work: object, *arguments: object) -> object:
        seen.append(work)
        return await real(self, work, *arguments)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counting)
    return seen


async def test_a_statement_is_one_hand_over(
    connection: aiosqlite.Connection, handed_over: list[object]
) -> None:
    async with await connection.cursor() as cursor:
        await cursor.execute("SELECT n FROM numbers WHERE n < ?", (3,))
        assert [*await cursor.fetchall()] == [(0,), (1,), (2,)]
        assert [column[0] for column in cursor.description] == ["n"]
    assert len(handed_over) == 1
    await connection.execute("BEGIN")
    handed_over.clear()
    async with await connection.cursor() as cursor:
        await cursor.execute("UPDATE numbers SET n = -1 WHERE n < 5")
        assert cursor.rowcount == 5
        assert [*await cursor.fetchall()] == []
    assert len(handed_over) == 1


@pytest.mark.parametrize("size", [1, 7, 200, 333, MANY, MANY + 1])
async def test_many_rows_come_in_order_and_once(
    connection: aiosqlite.Connection, size: int
) -> None:
    cursor = await connection.cursor()
    await cursor.execute("SELECT n FROM numbers ORDER BY n")
    found = [await cursor.fetchone()]
    while rows := [*await cursor.fetchmany(size)]:
        assert len(rows) == size or len(found) + len(rows) == MANY
        found += rows
    assert found == [(n,) for n in range(MANY)]
    assert await cursor.fetchone() is None
    await cursor.execute("SELECT n FROM numbers ORDER BY n")
    assert await cursor.fetchone() == (0,)
    assert [*await cursor.fetchall()] == [(n,) for n in range(1, MANY)]


async def test_a_cursor_that_is_closed_early_holds_no_lock(
    connection: aiosqlite.Connection, tmp_path: Path
) -> None:
    cursor = await connection.cursor()
    await cursor.execute("SELECT n FROM numbers")
    await cursor.close()
    other = sqlite3.connect(tmp_path / "aura.db", timeout=0)
    other.execute("DROP TABLE numbers")
    other.close()


async def test_a_statement_that_fails_leaves_a_connection_that_works(
    connection: aiosqlite.Connection,
) -> None:
    cursor = await connection.cursor()
    with pytest.raises(sqlite3.OperationalError):
        await cursor.execute("SELECT nothing FROM nowhere")
    await cursor.execute("SELECT count(*) FROM numbers")
    assert await cursor.fetchone() == (MANY,)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    opened = open_engine(f"sqlite:///{tmp_path / 'aura.db'}")
    async with opened.begin() as writer:
        await writer.execute(text("CREATE TABLE numbers (n INTEGER)"))
    yield opened
    await opened.dispose()


async def test_what_reads_is_told_so_once(engine: AsyncEngine) -> None:
    said: list[str] = []

    def note(_c: Any, _u: Any, statement: str, _p: Any, _x: Any, _m: Any) -> None:
        if "query_only" in statement:
            said.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    for _ in range(2):
        await refused(engine)
    for _ in range(2):
        await written(engine)
    assert said == ["PRAGMA query_only=ON", "PRAGMA query_only=OFF"]


@pytest.mark.parametrize("turns", [*range(0, 30, 3)])
async def test_after_a_cancellation_readers_still_only_read_and_writers_write(
    engine: AsyncEngine, turns: int
) -> None:
    for work in (written, refused):
        cancelled = asyncio.create_task(work(engine))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await written(engine)
        await refused(engine)


async def refused(engine: AsyncEngine) -> None:
    async with engine.connect() as reader:
        await reader.execution_options(aura_read_only=True)
        with pytest.raises(OperationalError, match="readonly"):
            await reader.execute(text("INSERT INTO numbers VALUES (1)"))


async def written(engine: AsyncEngine) -> None:
    async with engine.begin() as writer:
        await writer.execute(text("INSERT INTO numbers VALUES (1)"))
