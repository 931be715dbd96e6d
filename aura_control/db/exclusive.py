"""One command at a time: a lock on the database that dies with its holder and is not waited for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text

from aura_control.db.engine import database_url, open_engine
from aura_core.errors import Conflict

__all__ = ["alone"]

_LOCK = 0x726F7461  # "rota"


@asynccontextmanager
async def alone(url: str) -> AsyncIterator[None]:
    """Holds the lock on the keys of the database inside the block. Raises Conflict when another
    process has it: on SQLite on this host, on PostgreSQL on any."""
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite":
        descriptor = os.open(f"{parsed.database}-keys.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _busy() from None
            yield
        finally:
            os.close(descriptor)
        return
    engine = open_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            query = text("SELECT pg_try_advisory_lock(:key)")
            if not (await connection.execute(query, {"key": _LOCK})).scalar_one():
                raise _busy()
            yield
    finally:
        await engine.dispose()


def _busy() -> Conflict:
    return Conflict(
        "Another command is changing the keys of this database.",
        hint="Wait for it to end; 'aura keys status' shows how far it is.",
    )
