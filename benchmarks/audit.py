"""Verifying an audit log, and writing it.

Verifying is measured by the path that ``aura audit verify`` takes: the walk along the whole chain
in one view of the database, compared with head, anchor, connections and signed checkpoints. Two
limits: HMAC-SHA256 over the same bytes that are in memory already, which nobody who verifies can do
without; and the same with the rows read by ``sqlite3`` alone, which is what any log in a database
takes. Appending is one transaction with one entry; its limit is the two statements that any chain
takes, with the MAC, by ``sqlite3`` with the same durability.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from hmac import digest
from pathlib import Path

from aura_control.db.columns import new_id, utc_now
from aura_control.db.engine import Database
from aura_control.db.schema import migrate
from aura_control.services.audit import verify_log
from aura_control.services.checkpoints import Checkpointer, CheckpointPlace
from aura_control.services.keys import Vault
from aura_core.checkpoints import FileCheckpoints
from aura_core.crypto import Keyring, lp
from aura_core.wire import ControlKeys
from benchmarks.measuring import Effort, Figure, by_turns_async, figure

__all__ = ["measure"]

_TENANT = "t1"
_READ = "SELECT seq, prev, mac, entry FROM audit_logs WHERE tenant_id = 't1' ORDER BY seq"
_KEY = bytes(32)


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for verifying a thousand entries, and for appending one."""
    with tempfile.TemporaryDirectory(prefix="aura-") as directory:
        return asyncio.run(_measure(effort, Path(directory)))


async def _measure(effort: Effort, directory: Path) -> Sequence[Figure]:
    file = directory / "aura.db"
    await migrate(f"sqlite:///{file}")
    vault = Vault(Keyring.generate(), ControlKeys.generate())
    place = CheckpointPlace(store=FileCheckpoints(), place=(directory / "kept").as_uri())
    database = Database.open(f"sqlite:///{file}", audit_key=vault.audit_key)
    try:
        await _fill(database, effort.calls * 200)
        await Checkpointer(
            database=database, place=place, signing=vault.signing, clock=utc_now
        ).deliver()
        with _opened(file) as rows, _opened(directory / "bare.db") as bare:
            entries = _messages(rows)
            verify, memory, reading = await by_turns_async(
                effort.rounds,
                _thousand(_verifying(database, vault, place, len(entries)), len(entries)),
                _thousand(_in_memory(entries), len(entries)),
                _thousand(_read(rows), len(entries)),
            )
            append, written = await by_turns_async(
                effort.rounds,
                _each(_append(database), effort.calls),
                _each(_bare(bare), effort.calls),
            )
    finally:
        await database.close()
    return [
        figure(
            "verify", limit="HMAC of the same bytes in memory", unit="ms", aura=verify, bare=memory
        ),
        figure("verify, read too", limit="sqlite3 and HMAC", unit="ms", aura=verify, bare=reading),
        figure("append", limit="two statements and HMAC", unit="ms", aura=append, bare=written),
    ]


async def _fill(database: Database, entries: int) -> None:
    async with database.transaction() as tx:
        await tx.tenants.create(tenant_id=_TENANT, name="", kdf_salt=bytes(32), actor="system")
    for start in range(0, entries, 500):
        async with database.transaction() as tx:
            for number in range(start, min(start + 500, entries)):
                await _one(tx.audit.append, number)


async def _one(append: Callable[..., Awaitable[None]], number: int) -> None:
    await append(
        _TENANT,
        action="connection.refreshed",
        actor="system",
        target=f"connection:{new_id()}",
        metadata={"provider": "google", "number": number, "scopes": ["mail.read", "mail.send"]},
    )


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        yield connection


def _messages(connection: sqlite3.Connection) -> list[bytes]:
    return [
        lp("audit/v1", _TENANT, seq, prev, entry)
        for seq, prev, _, entry in connection.execute(_READ)
    ]


Work = Callable[[], Awaitable[None]]


def _thousand(work: Work, entries: int) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        began = time.perf_counter_ns()
        await work()
        return (time.perf_counter_ns() - began) / entries / 1e3

    return sample


def _each(work: Work, calls: int) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        began = time.perf_counter_ns()
        for _ in range(calls):
            await work()
        return (time.perf_counter_ns() - began) / calls / 1e6

    return sample


def _verifying(database: Database, vault: Vault, place: CheckpointPlace, entries: int) -> Work:
    signers = {vault.signing.signer_kid: vault.signing.sig_public}

    async def verify() -> None:
        verdict = await verify_log(database, _TENANT, place=place, signers=signers)
        assert (verdict.state.value, verdict.entries) == ("whole", entries), verdict

    return verify


def _in_memory(messages: Sequence[bytes]) -> Work:
    async def work() -> None:
        for message in messages:
            digest(_KEY, message, "sha256")

    return work


def _read(connection: sqlite3.Connection) -> Work:
    async def work() -> None:
        for seq, prev, _, entry in connection.execute(_READ):
            digest(_KEY, b"%d%b%b" % (seq, prev.encode(), entry.encode()), "sha256")

    return work


def _append(database: Database) -> Work:
    async def append() -> None:
        async with database.transaction() as tx:
            await _one(tx.audit.append, 0)

    return append


def _bare(connection: sqlite3.Connection) -> Work:
    connection.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, prev, mac, entry, at)")
    connection.execute("CREATE TABLE head (seq, mac)")
    connection.execute("INSERT INTO head VALUES (0, '')")
    entry = "x" * 240

    async def append() -> None:
        connection.execute("BEGIN IMMEDIATE")
        ((seq, prev),) = connection.execute("SELECT seq, mac FROM head")
        mac = digest(_KEY, f"{seq}{prev}{entry}".encode(), "sha256").hex()
        row = (seq + 1, prev, mac, entry, time.time())
        connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("UPDATE head SET seq = ?, mac = ?", (seq + 1, mac))
        connection.execute("COMMIT")

    return append
