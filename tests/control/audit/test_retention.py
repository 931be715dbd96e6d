"""Old entries go, the chain stays whole, and nothing goes that should not."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from aura_control.db.chain import AuditState
from aura_core.errors import EnvelopeError, InvalidInput, NotFound
from tests.control.audit.log import OTHER, TENANT, Log, lay_open
from tests.control.db.world import connect


async def _first(log: Log) -> int:
    async with log.database.reading() as tx:
        return min(int(row["seq"]) for row in await log.rows(tx))


async def test_ninety_days(log: Log) -> None:
    await connect(log.database)
    await log.write(10)
    await log.checkpoint()
    log.clock.forward(days=89, hours=23)
    assert await log.prune() == 0
    log.clock.forward(hours=2)
    assert await log.prune() == 13 + 2
    verdict = await log.verify()
    assert (verdict.state, verdict.first, verdict.entries) == (AuditState.WHOLE, 14, 1)
    async with log.database.reading() as tx:
        (entry,) = await tx.audit.entries(tenant_id=TENANT)
    assert entry.action == "audit.pruned"
    assert entry.metadata["deleted"] == 13
    assert await log.prune() == 0


async def test_in_batches_and_again(log: Log) -> None:
    await log.write(57)
    await log.checkpoint()
    log.clock.forward(days=50)
    await log.write(20)
    await log.checkpoint()
    log.clock.forward(days=41)
    assert await log.prune(batch=10) == 59 + 2
    assert await _first(log) == 60
    assert (await log.verify()).state is AuditState.WHOLE
    await log.checkpoint()
    log.clock.forward(days=92)
    assert await log.prune(batch=7) > 20
    verdict = await log.verify()
    assert verdict.state is AuditState.WHOLE, verdict


async def test_the_last_write_of_a_connection_is_remembered(log: Log) -> None:
    connection = await connect(log.database)
    await log.checkpoint()
    log.clock.forward(days=91)
    assert await log.prune() > 0
    assert (await log.verify()).state is AuditState.WHOLE
    await lay_open(log.database)
    async with log.database.transaction() as tx:
        await tx.session.execute(
            text("UPDATE integrations SET access_token = 'x' WHERE id = :id"), {"id": connection.id}
        )
    verdict = await log.verify()
    assert (verdict.state, verdict.target) == (
        AuditState.REWRITTEN, f"connection:{connection.id}"
    )  # fmt: skip


async def test_what_no_checkpoint_covers_stays(log: Log) -> None:
    await log.write(5)
    await log.checkpoint()
    await log.write(5)
    log.clock.forward(days=100)
    await log.prune()
    assert await _first(log) == 8


async def test_a_tenants_own_days(log: Log) -> None:
    await log.write(5)
    await log.checkpoint()
    async with log.database.transaction() as tx:
        assert await tx.retention.set_days(TENANT, 7, actor="operator") == 90
    log.clock.forward(days=8)
    assert await log.prune() == 7
    assert (await log.verify()).state is AuditState.WHOLE
    for days in (0, -1, 36_501):
        with pytest.raises(InvalidInput):
            async with log.database.transaction() as tx:
                await tx.retention.set_days(TENANT, days, actor="operator")
    with pytest.raises(NotFound):
        async with log.database.transaction() as tx:
            await tx.retention.set_days("nobody", 7, actor="operator")


async def test_a_retention_put_back_shows(log: Log) -> None:
    async with log.database.reading() as tx:
        before = await tx.audit.anchor(TENANT)
    assert before is not None
    async with log.database.transaction() as tx:
        await tx.retention.set_days(TENANT, 365, actor="operator")
    assert (await log.verify()).state is AuditState.WHOLE
    await lay_open(log.database)
    async with log.database.transaction() as tx:
        await tx.session.execute(
            text("UPDATE audit_anchors SET retention_days = 90, proof = :p WHERE tenant_id = 't1'"),
            {"p": before.proof},
        )
    assert (await log.verify()).state is AuditState.REWRITTEN


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_logs SET entry = replace(entry, 'email', 'nihil') WHERE seq = 4",
        "UPDATE audit_anchors SET retention_days = 1",
    ],
    ids=["entry", "anchor"],
)
async def test_what_was_tampered_with_is_evidence_and_stays(log: Log, statement: str) -> None:
    await log.write(10)
    await log.checkpoint()
    await lay_open(log.database)
    async with log.database.transaction() as tx:
        await tx.session.execute(text(statement))
    log.clock.forward(days=91)
    await log.prune()
    assert await _first(log) == 1
    assert (await log.verify()).state is AuditState.ALTERED
    assert await log.prune() == 0  # tomorrow again, and others meanwhile


async def test_a_closed_log_stays(log: Log) -> None:
    await log.write(5)
    async with log.database.transaction() as tx:
        await tx.tenants.shred(TENANT, actor="operator")
    await log.checkpoint()
    log.clock.forward(days=91)
    await log.prune()
    verdict = await log.verify()
    assert (verdict.state, verdict.closed, verdict.entries) == (AuditState.WHOLE, True, 8)
    with pytest.raises(EnvelopeError):
        async with log.database.transaction() as tx:
            await tx.retention.set_days(TENANT, 7, actor="operator")


REFUSED = {
    "an entry": "DELETE FROM audit_logs WHERE id = (SELECT min(id) FROM audit_logs)",
    "all": "DELETE FROM audit_logs",
    "beyond the anchor": "DELETE FROM audit_logs WHERE tenant_id = 't1' AND seq >= 30",
    "a change": "UPDATE audit_logs SET at = at",
    "no anchor": "DELETE FROM audit_anchors",
    "back": "UPDATE audit_anchors SET seq = seq - 1 WHERE tenant_id = 't1'",
    "to no entry": "UPDATE audit_anchors SET seq = seq + 1",
    "to the end": "UPDATE audit_anchors SET seq = (SELECT max(seq) FROM audit_logs WHERE"
    " tenant_id = 't1'), mac = (SELECT mac FROM audit_logs WHERE tenant_id = 't1' AND seq ="
    " (SELECT max(seq) FROM audit_logs WHERE tenant_id = 't1')) WHERE tenant_id = 't1'",
    "another's": "UPDATE audit_anchors SET tenant_id = 't9' WHERE tenant_id = 't1'",
}


async def test_the_database_lets_go_of_the_pruned_part_only(log: Log) -> None:
    await log.live()
    for statement in REFUSED.values():
        with pytest.raises(DBAPIError, match="append-only"):
            async with log.database.transaction() as tx:
                await tx.session.execute(text(statement))
    assert (await log.verify()).state is AuditState.WHOLE


async def test_a_log_that_cannot_be_walked_keeps_no_other_from_being_pruned(log: Log) -> None:
    if log.database.dialect == "postgresql":
        return  # its column takes nothing but times
    for tenant_id in (TENANT, OTHER):
        await log.write(5, tenant_id)
    await log.checkpoint()
    await lay_open(log.database)
    async with log.database.transaction() as tx:
        await tx.session.execute(
            text("UPDATE audit_logs SET at = 'never' WHERE seq = 1 AND tenant_id = :t"),
            {"t": TENANT},
        )
        await tx.session.execute(
            text("UPDATE audit_anchors SET prune_due_at = '2000-01-01' WHERE tenant_id = :t"),
            {"t": TENANT},
        )
    log.clock.forward(days=91)
    assert await log.prune() > 5
    async with log.database.reading() as tx:
        left = {tenant_id: await log.rows(tx, tenant_id) for tenant_id in (TENANT, OTHER)}
    assert [row["seq"] for row in left[TENANT]][:2] == [1, 2], "it is evidence"
    assert [row["entry"] for row in left[OTHER] if "email_sent" in row["entry"]] == []
