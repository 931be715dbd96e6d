"""The chain: what it says, and that it shows what was done to it."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from aura_control.db.engine import Database
from aura_control.db.repositories.audit import AuditState, AuditVerdict
from aura_core.errors import EnvelopeError, NotFound
from tests.control.db.world import World


async def _fill(database: Database, world: World) -> None:
    async with database.transaction() as tx:
        for number in range(4):
            await tx.audit.append(
                world.tenant_id,
                action="email_sent",
                actor="vm:i1",
                target=f"mailto:{number}@example.org",
                agent_id="a1" if number % 2 else None,
                metadata={"number": number, "subject": 'Grüße "an" alle'},
            )


async def _verify(database: Database, world: World) -> AuditVerdict:
    async with database.reading() as tx:
        return await tx.audit.verify(world.tenant_id)


async def _tamper(database: Database, *statements: str) -> None:
    """What somebody with the database's own power does: triggers do not stop them."""
    async with database.transaction() as tx:
        if database.dialect == "sqlite":
            await tx.session.execute(text("DROP TRIGGER audit_logs_no_update"))
            await tx.session.execute(text("DROP TRIGGER audit_logs_no_delete"))
        else:
            await tx.session.execute(text("ALTER TABLE audit_logs DISABLE TRIGGER ALL"))
        for statement in statements:
            await tx.session.execute(text(statement))


async def test_entries_are_read_newest_first(database: Database, world: World) -> None:
    await _fill(database, world)
    async with database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=world.tenant_id, limit=2)
        older = await tx.audit.entries(tenant_id=world.tenant_id, before=entries[-1].seq, limit=1)
        of_agent = await tx.audit.entries(tenant_id=world.tenant_id, agent_id="a1")
        none = await tx.audit.entries(tenant_id=world.other_tenant_id, agent_id="a1")
    assert [entry.metadata["number"] for entry in (*entries, *older)] == [3, 2, 1]
    assert [entry.metadata["number"] for entry in of_agent] == [3, 1]
    assert entries[0].metadata["subject"] == 'Grüße "an" alle'
    assert entries[0].actor == "vm:i1"
    assert none == []


async def test_a_whole_chain(database: Database, world: World) -> None:
    await _fill(database, world)
    verdict = await _verify(database, world)
    assert verdict == AuditVerdict(tenant_id=world.tenant_id, entries=6, first=1)
    assert verdict.state is AuditState.WHOLE


@pytest.mark.parametrize(
    ("statement", "state", "seq"),
    [
        ("UPDATE audit_logs SET entry = replace(entry, 'email', 'nihil') WHERE seq = 4",
         AuditState.ALTERED, 4),
        ("UPDATE audit_logs SET tenant_id = 't2', seq = 99 WHERE seq = 4 AND tenant_id = 't1'",
         AuditState.GAP, 4),
        ("DELETE FROM audit_logs WHERE seq = 4", AuditState.GAP, 4),
        ("UPDATE audit_logs SET seq = seq + 10 WHERE seq >= 4", AuditState.GAP, 4),
        ("DELETE FROM audit_logs WHERE tenant_id = 't1' AND seq >= 5", AuditState.TRUNCATED, 5),
    ],
)  # fmt: skip
async def test_tampering_shows(
    database: Database, world: World, statement: str, state: AuditState, seq: int
) -> None:
    await _fill(database, world)
    await _tamper(database, statement)
    verdict = await _verify(database, world)
    assert (verdict.state, verdict.entries, verdict.seq) == (state, seq - 1, seq)


async def test_another_tenants_key_makes_another_chain(database: Database, world: World) -> None:
    async with database.transaction() as tx:
        for tenant_id in (world.tenant_id, world.other_tenant_id):
            await tx.audit.append(tenant_id, action="same", actor="system", target="same")
    async with database.reading() as tx:
        macs = (
            await tx.session.execute(text("SELECT mac FROM audit_logs WHERE entry LIKE '%same%'"))
        ).scalars()
    assert len(set(macs)) == 2


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_logs SET entry = ''", "DELETE FROM audit_logs"]
)
async def test_the_database_refuses_to_change_entries(
    database: Database, world: World, statement: str
) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.transaction() as tx:
            await tx.session.execute(text(statement))
    assert (await _verify(database, world)).state is AuditState.WHOLE


async def test_a_shredded_tenants_log_is_closed(database: Database, world: World) -> None:
    async with database.transaction() as tx:
        await tx.tenants.shred(world.tenant_id, actor="system")
    async with database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=world.tenant_id)
        assert (await tx.tenants.get(world.tenant_id)).kdf_salt is None
    assert entries[0].action == "tenant.shredded"
    verdict = await _verify(database, world)
    assert (verdict.state, verdict.closed, verdict.entries) == (AuditState.WHOLE, True, 3)
    with pytest.raises(EnvelopeError):
        async with database.transaction() as tx:
            await tx.audit.append(world.tenant_id, action="x", actor="system", target="x")


async def test_an_unknown_tenant_has_no_log(database: Database, world: World) -> None:
    with pytest.raises(NotFound):
        async with database.transaction() as tx:
            await tx.audit.append("nobody", action="x", actor="system", target="x")
