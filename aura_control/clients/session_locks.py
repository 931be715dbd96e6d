"""Locks between the processes of any number of hosts, by PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from psycopg import AsyncConnection, Error

from aura_control.clients.locks import WAIT_SECONDS, too_long
from aura_control.db.engine import database_url
from aura_core.errors import RefreshFailed

__all__ = ["PostgresLocks"]

_STATEMENT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25

_SETTINGS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        # Nothing here takes long, and a session that is idle holds locks: no limit may end it.
        "statement_timeout": 0,
        "lock_timeout": 0,
        "idle_session_timeout": 0,
        # A host that lost its power closes no connection: the server asks after 5 s of silence,
        # and frees the locks of one that does not answer within 9 s more. A process that is only
        # stopped goes on answering by its kernel, and goes on holding.
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 3,
        "tcp_keepalives_count": 3,
    }.items()
)


@dataclass(kw_only=True)
class _Name:
    """A name that somebody in this process holds or waits for."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class PostgresLocks:
    """``Locks`` by session advisory locks.

    One session, and so one connection, holds all locks of the process: a pool would have to be as
    large as the number of those who wait, or they would keep a holder from its connection. Inside
    the process a name has one user at a time, because a session may take its own lock twice; those
    who wait for another process ask again every 10 to 250 ms, because a session that blocks in
    ``pg_advisory_lock`` can do nothing else. The connection must not come from a transaction
    pooler, and none of the limits of ``db.engine`` is on it.

    When the connection breaks, every lock of it is gone while its holder may still be in a call:
    what it stores is compared with the revision that it read, and whoever takes over finds its
    intent open.
    """

    def __init__(self, url: str, *, wait_seconds: float = WAIT_SECONDS) -> None:
        """``url``: the database's; connects at first use. Close it at the end."""
        plain = database_url(url).set(drivername="postgresql")
        self._url = plain.render_as_string(hide_password=False)
        self._wait_seconds = wait_seconds
        self._session: AsyncConnection | None = None
        self._opening = asyncio.Lock()
        self._names: dict[str, _Name] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Closes the session, which frees whatever it holds."""
        if self._asking:
            await asyncio.wait(list(self._asking))
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def hold(self, name: str, *, wait: float | None = None) -> AsyncIterator[None]:
        """See ``ports.Locks``."""
        patience = self._wait_seconds if wait is None else wait
        deadline = asyncio.get_running_loop().time() + patience
        known = self._names.setdefault(name, _Name())
        if patience <= 0 and known.lock.locked():
            raise too_long()
        known.users += 1
        try:
            try:
                async with asyncio.timeout_at(max(deadline, 0.0) if patience > 0 else None):
                    await known.lock.acquire()
            except TimeoutError:
                raise too_long() from None
            try:
                async with self._held(_key(name), deadline):
                    yield
            finally:
                known.lock.release()
        finally:
            known.users -= 1
            if not known.users:
                self._names.pop(name, None)

    @asynccontextmanager
    async def _held(self, key: int, deadline: float) -> AsyncIterator[None]:
        pause, now = _FIRST_PAUSE, asyncio.get_running_loop().time
        while (session := await self._taken(key)) is None:
            left = deadline - now()
            if left <= 0:
                raise too_long()
            await asyncio.sleep(min(left, random.uniform(pause / 2, pause)))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield
        finally:
            await self._unlocked(session, key)

    async def _taken(self, key: int) -> AsyncConnection | None:
        """The session that got the lock, or None if another process has it."""
        got: list[AsyncConnection] = []

        async def ask() -> None:
            session = await self._open()
            if await _asked(session, "SELECT pg_try_advisory_lock(%s)", key):
                got.append(session)

        asking = self._owned(asyncio.ensure_future(ask()))
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The question is under way and may be answered with the lock, which nobody wants.
            self._owned(asyncio.ensure_future(self._given_back(asking, got, key)))
            raise
        except (Error, OSError, TimeoutError):
            raise RefreshFailed(
                "The database that keeps Aura's processes apart does not answer.",
                hint="Try again in a moment.",
            ) from None
        return got[0] if got else None

    def _owned(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _given_back(
        self, asking: asyncio.Task[None], got: list[AsyncConnection], key: int
    ) -> None:
        with suppress(Error, OSError, TimeoutError):
            await asking
        for session in got:
            await self._unlocked(session, key)

    async def _unlocked(self, session: AsyncConnection, key: int) -> None:
        async def unlock() -> None:
            # A session that broke holds nothing any more.
            with suppress(Error, OSError, TimeoutError):
                await _asked(session, "SELECT pg_advisory_unlock(%s)", key)

        await asyncio.shield(self._owned(asyncio.ensure_future(unlock())))

    async def _open(self) -> AsyncConnection:
        async with self._opening:
            if self._session is None or self._session.closed:
                self._session = await AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=10,
                    application_name="aura-locks",
                    options=_SETTINGS,
                    keepalives_idle=10,
                    keepalives_interval=5,
                    keepalives_count=3,
                )
            return self._session


async def _asked(session: AsyncConnection, question: str, key: int) -> bool:
    try:
        async with asyncio.timeout(_STATEMENT_SECONDS):
            cursor = await session.execute(question.encode(), (key,))
            row = await cursor.fetchone()
    except TimeoutError:
        await session.close()  # whatever it held or was about to get ends with it
        raise
    return bool(row and row[0])


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
