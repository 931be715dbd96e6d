"""A log with a history: entries of several days, connections, checkpoints, a pruned beginning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from aura_control.db.engine import Database
from aura_control.db.transaction import Transaction
from aura_control.db.verdict import AuditVerdict
from aura_control.services.audit import verify_log, verify_view
from aura_control.services.checkpoints import Checkpointer, CheckpointPlace, Witness
from aura_control.services.retention import Pruner
from aura_core.checkpoints import FileCheckpoints
from aura_core.wire import ControlKeys
from tests.control.db.world import Clock, connect, current, grant

TENANT, OTHER = "t1", "t2"

_INDEX = "CREATE INDEX audit_logs_seq ON audit_logs (tenant_id, seq)"
"""In the place of the constraint's: each attempt that is taken back leaves dead rows."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """A database, a place for checkpoints, and who signs them."""

    database: Database
    clock: Clock
    directory: Path
    signing: ControlKeys

    @property
    def place(self) -> CheckpointPlace:
        return CheckpointPlace(store=FileCheckpoints(), place=self.directory.as_uri())

    @property
    def signers(self) -> dict[str, bytes]:
        return {self.signing.signer_kid: self.signing.sig_public}

    @property
    def checkpointer(self) -> Checkpointer:
        return Checkpointer(
            database=self.database, place=self.place, signing=self.signing, clock=self.clock
        )

    async def write(self, entries: int, tenant_id: str = TENANT) -> None:
        async with self.database.transaction() as tx:
            for number in range(entries):
                await tx.audit.append(
                    tenant_id,
                    action="email_sent",
                    actor="vm:i1",
                    target=f"mailto:{number}@example.org",
                    agent_id="a1" if number % 2 else None,
                    metadata={"number": number, "subject": 'Grüße ,"at":"2026" an \\ alle'},
                )

    async def checkpoint(self) -> None:
        """Five minutes later."""
        self.clock.forward(minutes=6)
        while await self.checkpointer.deliver():
            pass

    async def prune(self, batch: int = 1000) -> int:
        return await Pruner(database=self.database, batch=batch).sweep()

    async def verify(self, tenant_id: str = TENANT) -> AuditVerdict:
        return await verify_log(self.database, tenant_id, place=self.place, signers=self.signers)

    async def verify_view(self, tx: Transaction, witness: Witness) -> AuditVerdict:
        """What ``verify`` says of a transaction that is not committed."""
        return await verify_view(
            tx, TENANT, place=self.place, witness=witness, signers=self.signers
        )

    async def live(self, entries: int = 25) -> None:
        """Half a year: what is old was pruned, what is young has checkpoints, and the newest
        entries have none yet."""
        await connect(self.database, provider="old")
        await self.write(entries)
        await self.checkpoint()
        self.clock.forward(days=60)
        connection = await connect(self.database)
        await self.write(entries)
        await self.checkpoint()
        self.clock.forward(days=40)
        assert await self.prune() == entries + 3 + 2  # and the other tenant's
        for tenant_id in (TENANT, OTHER):
            await self.write(entries, tenant_id)
        await self.checkpoint()
        await connect(self.database, grant(access="access-2"), provider=connection.provider)
        await self.write(entries)
        await self.checkpoint()
        await self.write(3)

    async def rows(self, tx: Transaction, tenant_id: str = TENANT) -> list[dict[str, Any]]:
        found = await tx.session.execute(
            text("SELECT * FROM audit_logs WHERE tenant_id = :t ORDER BY seq"), {"t": tenant_id}
        )
        return [dict(row) for row in found.mappings()]


async def lay_open(database: Database) -> None:
    """What somebody with the database's own power does first: neither the triggers nor the
    constraint on ``seq`` is in their way."""
    async with database.transaction() as tx:
        if database.dialect == "postgresql":
            for table in ("audit_logs", "audit_anchors"):
                await tx.session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
            await tx.session.execute(
                text("ALTER TABLE audit_logs DROP CONSTRAINT uq_audit_logs_tenant_id_seq")
            )
            await tx.session.execute(text(_INDEX))
            return
        named = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for name in (await tx.session.execute(text(named))).scalars().all():
            await tx.session.execute(text(f"DROP TRIGGER {name}"))
        for statement in (
            "CREATE TABLE copied AS SELECT * FROM audit_logs",
            "DROP TABLE audit_logs",
            "CREATE TABLE audit_logs (id INTEGER PRIMARY KEY, tenant_id TEXT, seq BIGINT,"
            " prev VARCHAR(64), mac VARCHAR(64), entry TEXT, at DATETIME)",
            "INSERT INTO audit_logs SELECT * FROM copied",
            "DROP TABLE copied",
            _INDEX,
        ):
            await tx.session.execute(text(statement))


__all__ = ["OTHER", "TENANT", "Log", "current", "lay_open"]
