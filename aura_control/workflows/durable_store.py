"""The SQLite file that durable work is written down in."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["close_store", "open_store"]

_SUBSECONDS = (3, 42, 0)
"""From this SQLite on, ``unixepoch('subsec')`` is known (sqlite.org/lang_datefunc.html). The engine
takes it for granted on Python 3.12 and later, but the library is the system's: Debian 12 has 3.40,
where the answer is NULL and every insert that relies on it fails."""


def open_store(url: URL) -> Engine:
    """Opens the file, for its owner only.

    ``synchronous=FULL``: a commit that is lost after a step was done would do the step again.
    ``IMMEDIATE``: a transaction that turns from reading to writing would fail when another one
    wrote meanwhile, whatever the busy timeout.
    """
    Path(str(url.database)).touch(mode=0o600)
    engine = create_engine(
        url.set(drivername="sqlite"),
        connect_args={"isolation_level": "IMMEDIATE", "timeout": 30},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        if sqlite3.sqlite_version_info < _SUBSECONDS:
            connection.create_function("unixepoch", 1, lambda _: time.time())
        for pragma in (
            "busy_timeout=30000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def close_store(store: Engine) -> None:
    """Closes every connection, also those that threads of the library give back only later.

    ``dispose`` closes what is in the pool at the moment; the library sees to late ones for
    engines of its own, not for one that it was given.
    """
    event.listen(store, "checkin", _close)
    store.dispose()


def _close(_connection: Any, entry: ConnectionPoolEntry) -> None:
    entry.close()
