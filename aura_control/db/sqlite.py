"""SQLite's connections: one hand-over to the connection's thread for each statement.

aiosqlite runs everything in a thread, and by itself hands over four times for a statement: to make
the cursor, to execute, to fetch, to close. Each costs the loop more than the statement costs
SQLite; a renewal of a token was 130 of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import aiosqlite
from aiosqlite.context import contextmanager

__all__ = ["connect"]

Handing = Callable[..., Awaitable[None]]

_AHEAD = 200
"""Rows that are fetched with the execution; what streams more than that fetches the rest later."""


async def connect(path: Path, *, wait_seconds: float) -> aiosqlite.Connection:
    """Opens the file; statements wait for another writer so long."""
    connector = partial(
        sqlite3.connect,
        path,
        timeout=wait_seconds,
        factory=_Connection,
        check_same_thread=False,  # for `__del__`; aiosqlite keeps to one thread
    )
    connection = _Adapted(connector, iter_chunk_size=_AHEAD)
    # A process whose loop ended does not wait for the threads of connections that nobody closed.
    connection._thread.daemon = True
    return await connection


class _Connection(sqlite3.Connection):
    """Gives up its transaction when it is closed.

    SQLite keeps a closed connection alive, locks and all, as long as one of its statements is not
    finished (sqlite.org/c3ref/close.html). A task that is cancelled in the middle of a query leaves
    such a statement to the garbage collector, and until it came by nobody could write.
    """

    def close(self) -> None:
        if self.in_transaction:
            self.rollback()
        super().close()

    def __del__(self) -> None:
        # An opening that is cancelled drops the connection that it gets, in whatever thread.
        # Python 3.13 warns of that; who drops one that is in use is told by aiosqlite.
        with suppress(sqlite3.ProgrammingError):  # it could not even be opened
            self.close()


class _Adapted(aiosqlite.Connection):
    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        return _Cursor(self, self._conn.cursor())


class _Cursor(aiosqlite.Cursor):
    """Executes, fetches and closes in one go, unless there are very many rows."""

    def __init__(self, connection: aiosqlite.Connection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._rows: list[Any] = []
        self._finished = False

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> aiosqlite.Cursor:
        await self._hand_over(self._run, "execute", sql, parameters or ())
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> aiosqlite.Cursor:
        await self._hand_over(self._run, "executemany", sql, parameters)
        return self

    async def fetchone(self) -> Any:
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        wanted = self.arraysize if size is None else size
        if len(self._rows) < wanted and not self._finished:
            await self._hand_over(self._fetch, max(wanted - len(self._rows), _AHEAD))
        taken, self._rows = self._rows[:wanted], self._rows[wanted:]
        return taken

    async def fetchall(self) -> list[Any]:
        if not self._finished:
            await self._hand_over(self._fetch, None)
        taken, self._rows = self._rows, []
        return taken

    async def close(self) -> None:
        if not self._finished:
            await self._hand_over(self._finish)

    async def _hand_over(self, work: Callable[..., None], *arguments: object) -> None:
        await cast("Handing", self._conn._execute)(work, *arguments)

    # In the connection's thread:

    def _run(self, how: Literal["execute", "executemany"], sql: str, parameters: Any) -> None:
        if self._finished:  # it is used again
            self._cursor, self._finished = self._conn._conn.cursor(), False
        self._rows = []
        try:
            getattr(self._cursor, how)(sql, parameters)
        except BaseException:
            self._finish()
            raise
        if self._cursor.description is None:
            self._finish()
        else:
            self._fetch(_AHEAD)

    def _fetch(self, count: int | None) -> None:
        rows = self._cursor.fetchall() if count is None else self._cursor.fetchmany(count)
        self._rows += rows
        if count is None or len(rows) < count:
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._cursor.close()
