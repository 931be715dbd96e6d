"""The database: one transaction for a request or a task, with every repository on it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from aura_control.db import sqlite
from aura_control.db.columns import utc_now
from aura_control.db.journal import AuditKey
from aura_control.db.transaction import Transaction
from aura_core.errors import ConfigurationError, Unavailable

__all__ = ["Database", "database_url", "open_engine"]

_WAIT_SECONDS = 30
"""How long a transaction waits for another one: SQLite's writer, or a row lock."""

_ERASE_WAIT_MS = 500
_ERASE_LOCK_MS = 200

_READ_ONLY = "aura_read_only"

_READING: dict[str, dict[str, Any]] = {
    "sqlite": {_READ_ONLY: True},
    "postgresql": {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"},
}

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


def database_url(text: str) -> URL:
    """Parses a database URL and names the driver; raises ConfigurationError."""
    hint = "Use sqlite:////path/to/aura.db or postgresql://user@host/name."
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigurationError("The database URL cannot be parsed.", hint=hint) from error
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise ConfigurationError(f"Aura has no driver for {url.drivername!r}.", hint=hint)
    if driver == "sqlite+aiosqlite" and url.database in (None, "", ":memory:"):
        raise ConfigurationError("A database in memory cannot be shared.", hint=hint)
    return url.set(drivername=driver)


def open_engine(text: str) -> AsyncEngine:
    """An engine for ``text``, set up so that a commit that returned is on the disk.

    Its errors do not repeat what a statement was given: that may be a tenant's salt, and whoever
    prints an error that nobody expected would keep it for longer than the tenant does.
    """
    url = database_url(text)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    limit = _WAIT_SECONDS * 1000
    return create_async_engine(
        url,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": 10,
            "options": f"-c statement_timeout={limit} -c lock_timeout={limit}"
            f" -c idle_in_transaction_session_timeout={2 * limit}",
        },
    )


def _open_sqlite(url: URL) -> AsyncEngine:
    # The journal files get the mode of the database: for its owner only.
    path = Path(str(url.database)).absolute()
    path.touch(mode=0o600)
    engine = create_async_engine(
        url,
        async_creator=partial(sqlite.connect, path, wait_seconds=_WAIT_SECONDS),
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin by itself: see _begin
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_WAIT_SECONDS * 1000}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            # What is deleted is overwritten: a tenant's salt that was destroyed must not be found
            # in a page that SQLite has not used again yet.
            "secure_delete=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that turns from reading to writing fails at once when another
        # one wrote meanwhile, whatever the busy timeout: writers say so at their beginning.
        reading = bool(connection.get_execution_options().get(_READ_ONLY))
        if connection.info.get(_READ_ONLY) is not reading:
            connection.info.pop(_READ_ONLY, None)  # not known, if this is cancelled
            connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reading else 'OFF'}")
            connection.info[_READ_ONLY] = reading
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


async def _write_anew(writer: AsyncConnection, table: str) -> bool:
    """Whether the table was written anew, and without any old version of a row."""
    driver: Any = (await writer.get_raw_connection()).driver_connection
    kept: list[int] = []

    def noticed(notice: Any) -> None:
        # "1 dead row versions cannot be removed yet.": a number first, in every language.
        if found := re.match(r"\d+", notice.message_detail or ""):
            kept.append(int(found[0]))

    driver.add_notice_handler(noticed)
    try:
        await writer.exec_driver_sql(f'VACUUM (FULL, VERBOSE) "{table}"')
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            return False
        raise
    finally:
        driver.remove_notice_handler(noticed)
    return kept == [0]


def _refuse_unit_of_work(session: Session, _context: object, _instances: object) -> None:
    """Rows are for reading: a change of one would be a state change without its audit entry."""
    if session.new or session.dirty or session.deleted:
        raise RuntimeError("rows are read-only: change them through a repository")


class Database:
    """The control plane's database. One per process and event loop; close it at the end."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        audit_key: AuditKey,
        clock: Callable[[], datetime],
        published: Callable[[str], None],
    ) -> None:
        self._published = published
        self._engine = engine
        self._audit_key = audit_key
        self._clock = clock
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        # SQLite has one writer. Tasks of this process queue here, in order, instead of polling
        # the file's lock against each other.
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else None
        self._closed = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        audit_key: AuditKey,
        clock: Callable[[], datetime] = utc_now,
        published: Callable[[str], None] = lambda followed: None,
    ) -> Database:
        """Opens ``url`` (``sqlite:///file`` or ``postgresql://``); connects at first use.

        ``audit_key`` makes and opens the tenants' audit keys. ``clock`` is read once for each
        transaction. ``published`` is called after each commit with the id of every user and agent
        that it gave events. Raises ConfigurationError.
        """
        return cls(open_engine(url), audit_key=audit_key, clock=clock, published=published)

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    async def close(self) -> None:
        """Refuses new transactions, waits for those under way, and closes every connection.

        Without the first two, whoever came late would open or hand back a connection that nobody
        is left to close.
        """
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._idle.wait()
        await self._engine.dispose()

    async def erase(self, table: str) -> bool:
        """Takes out of the database's files what was overwritten or deleted in the table; False:
        somebody reads an older state, so try again.

        SQLite overwrites what it deletes (``secure_delete``), but its write-ahead log holds pages
        from before: it is emptied. PostgreSQL keeps old versions of rows: the table is written
        anew, which takes along what a transaction that is older may still want to see, whatever
        table it reads. Its write-ahead log, and backups of either, are the operator's.
        """
        if self.dialect == "sqlite":
            return await self._empty_log()
        async with self._engine.connect() as writer:
            await writer.execution_options(isolation_level="AUTOCOMMIT")
            # Every transaction that comes meanwhile queues behind this one, which waits for those
            # that read the table now: a backup may do so for hours. Rather often than long.
            await writer.exec_driver_sql(f"SET lock_timeout = {_ERASE_LOCK_MS}")
            try:
                return await _write_anew(writer, table)
            finally:
                await writer.exec_driver_sql("RESET lock_timeout")

    async def _empty_log(self) -> bool:
        async with self._engine.connect() as reserved:
            # The driver's own connection: a checkpoint cannot run inside a transaction.
            connection: Any = (await reserved.get_raw_connection()).driver_connection
            # Writers wait as long as it waits for readers: rather often than long.
            await connection.execute(f"PRAGMA busy_timeout={_ERASE_WAIT_MS}")
            cursor = await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            busy, *_ = await cursor.fetchone()
            await cursor.close()
            await connection.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")
        return not busy

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction: committed, with its audit entries, when the block ends without error.

        Do not nest: on SQLite the inner one would wait for the outer one.
        """
        async with self._own_turn(), self._session() as session, session.begin():
            tx = Transaction(session, now=self._clock(), audit_key=self._audit_key)
            yield tx
            await tx.journal.flush()
        for followed in tx.journal.watched:
            self._published(followed)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """One unchanging view of the database that waits for nobody and refuses to write."""
        async with self._session() as session, session.begin():
            await session.connection(execution_options=_READING[self.dialect])
            tx = Transaction(session, now=self._clock(), audit_key=self._audit_key)
            yield tx
            if tx.journal.pending:
                raise RuntimeError("a reading transaction cannot write audit entries or events")

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        if self._closed:
            raise Unavailable("Aura is shutting down.", hint="Try again in a moment.")
        self._open += 1
        self._idle.clear()
        try:
            async with self._sessions() as session:
                event.listen(session.sync_session, "before_flush", _refuse_unit_of_work)
                yield session
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    @asynccontextmanager
    async def _own_turn(self) -> AsyncIterator[None]:
        if self._turn is None:
            yield
            return
        async with asyncio.timeout(_WAIT_SECONDS):
            await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()
