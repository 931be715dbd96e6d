"""A salt that was destroyed is gone from the database's files, not only from its answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from aura_control.db.engine import Database
from aura_core.errors import EnvelopeError

SALTS = {name: os.urandom(32) for name in ("t1", "t2")}


@pytest.fixture
async def tenants(database: Database) -> None:
    for name, salt in SALTS.items():
        async with database.transaction() as tx:
            await tx.tenants.create(tenant_id=name, name=name, kdf_salt=salt, actor="system")
            await tx.users.create(
                tenant_id=name, user_id=f"u-{name}", email=f"{name}@example.org", actor="system"
            )


def holding(url: str, salt: bytes) -> bool:
    """Whether any file that the table is in holds the salt."""
    if url.startswith("sqlite"):
        database = Path(str(make_url(url).database))
        return any(salt in path.read_bytes() for path in database.parent.glob("aura.db*"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")  # what is only in memory yet
        row = connection.execute("SHOW data_directory").fetchone()
        path = connection.execute("SELECT pg_relation_filepath('tenants')").fetchone()
    assert row is not None
    assert path is not None
    return salt in (Path(row[0]) / path[0]).read_bytes()


async def test_the_salt_leaves_the_files(database: Database, url: str, tenants: None) -> None:
    assert holding(url, SALTS["t1"])
    async with database.transaction() as tx:
        await tx.tenants.shred("t1", actor="operator", receipt={"shredded": True})
    assert holding(url, SALTS["t1"]), "the transaction alone leaves a copy"
    assert await database.erase("tenants")
    assert not holding(url, SALTS["t1"])
    assert holding(url, SALTS["t2"]), "the other tenant goes on"
    async with database.reading() as tx:
        gone, kept = await tx.tenants.get("t1"), await tx.tenants.get("t2")
        assert (gone.kdf_salt, gone.receipt) == (None, {"shredded": True})
        assert kept.kdf_salt == SALTS["t2"]
        assert await tx.users.by_email("t1@example.org") is None
        assert await tx.users.by_email("t2@example.org") is not None
    with pytest.raises(EnvelopeError):
        async with database.transaction() as tx:
            await tx.users.create(
                tenant_id="t1", user_id="u9", email="u9@example.org", actor="system"
            )


@pytest.mark.parametrize("table", ["tenants", "users"])
async def test_somebody_who_reads_an_older_state_is_not_waited_for(
    database: Database, url: str, tenants: None, table: str
) -> None:
    """Whoever reads the table itself keeps PostgreSQL from writing it anew, and everybody else
    would wait with it; whoever reads another one keeps the old version of the row alive."""
    async with database.reading() as tx:
        await (tx.tenants.get("t1") if table == "tenants" else tx.users.list(tenant_id="t1"))
        async with database.transaction() as other:
            await other.tenants.shred("t1", actor="operator")
        async with asyncio.timeout(10):
            assert not await database.erase("tenants")
    assert await database.erase("tenants")
    assert not holding(url, SALTS["t1"])
