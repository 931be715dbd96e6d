"""Connections: made, marked, ended, and never quietly put back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from aura_control.db.columns import milliseconds
from aura_control.db.connection import SealedTokens
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.db.repositories.audit import AuditState
from aura_core.errors import Conflict, EnvelopeError, NotFound
from tests.control.db.world import EXPIRY, Clock, World, connect, current, grant


async def test_a_connection_is_made(database: Database, world: World, clock: Clock) -> None:
    made = await connect(database)
    async with database.reading() as tx:
        found = await tx.integrations.get(tenant_id="t1", user_id="u1", provider="google")
        entry = (await tx.audit.entries(tenant_id="t1", limit=1))[0]
    assert found == made
    assert found is not None
    assert found.envelope() == SealedTokens(access_token="access-1", refresh_token="refresh-1")
    assert found.scopes == ("mail.read", "mail.send")
    assert found.metadata == {"email": "ada@example.org"}
    assert found.config == {"subdomain": "ada"}
    assert (found.state, found.token_expiry) == (ConnectionState.CONNECTED, EXPIRY)
    assert found.revision == milliseconds(clock.now)
    assert "access-1" not in repr(found)
    assert entry.action == "connection.connected"
    assert entry.target == f"connection:{made.id}"
    assert entry.metadata["revision"] == made.revision
    assert len(entry.metadata["envelope_digest"]) == 64
    assert "access-1" not in str(entry)


async def test_another_tenants_connection_is_not_found(database: Database, world: World) -> None:
    made = await connect(database)
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await tx.integrations.by_id(tenant_id="t2", connection_id=made.id)
        with pytest.raises(NotFound):
            await tx.integrations.reserve(tenant_id="t2", user_id="u1", provider="google")
        assert await tx.integrations.get(tenant_id="t2", user_id="u1", provider="google") is None
        assert await tx.integrations.list(tenant_id="t2", user_id="u1") == []
        common: dict[str, Any] = {"tenant_id": "t2", "connection_id": made.id}
        assert not await tx.integrations.mark(
            tenant_id="t2", connection_id=made.id, state=ConnectionState.UNCERTAIN, reason="x"
        )
        assert not await tx.integrations.begin_refresh(**common, expected_revision=made.revision)
        assert not await tx.integrations.apply_refresh(
            **common,
            expected_revision=made.revision,
            revision=made.revision + 1,
            tokens=SealedTokens(access_token="stolen"),
            token_expiry=None,
        )
        assert not await tx.integrations.disconnect(
            **common, expected_revision=made.revision, receipt={}, actor="user:u2"
        )
    assert await current(database, made) == made


async def test_connecting_again_keeps_the_id_and_raises_the_revision(
    database: Database, world: World, clock: Clock
) -> None:
    first = await connect(database)
    again = await connect(database, grant("access-2"))  # within the same millisecond
    assert (again.id, again.revision) == (first.id, first.revision + 1)
    clock.forward(seconds=5)
    later = await connect(database, grant("access-3"))
    assert later.revision == milliseconds(clock.now)
    assert later.envelope().access_token == "access-3"
    async with database.reading() as tx:
        assert [row.id for row in await tx.integrations.list(tenant_id="t1", user_id="u1")] == [
            first.id
        ]


async def test_of_two_new_connections_one_is_stored(database: Database, world: World) -> None:
    async with database.transaction() as tx:
        slot = await tx.integrations.reserve(tenant_id="t1", user_id="u1", provider="google")
    await connect(database)
    with pytest.raises(Conflict):
        async with database.transaction() as tx:
            await tx.integrations.upsert_connected(
                tenant_id="t1",
                user_id="u1",
                provider="google",
                slot=slot,
                grant=grant("late"),
                actor="user:u1",
            )


async def test_a_stale_slot_is_refused(database: Database, world: World) -> None:
    await connect(database)
    async with database.transaction() as tx:
        slot = await tx.integrations.reserve(tenant_id="t1", user_id="u1", provider="google")
    await connect(database, grant("access-2"))
    with pytest.raises(Conflict):
        async with database.transaction() as tx:
            await tx.integrations.upsert_connected(
                tenant_id="t1",
                user_id="u1",
                provider="google",
                slot=slot,
                grant=grant("late"),
                actor="user:u1",
            )


async def test_a_state_is_said_once(database: Database, world: World) -> None:
    made = await connect(database)
    outcomes = []
    for revision in (made.revision + 1, made.revision, made.revision):
        async with database.transaction() as tx:
            outcomes.append(
                await tx.integrations.mark(
                    tenant_id="t1",
                    connection_id=made.id,
                    state=ConnectionState.REAUTH_REQUIRED,
                    reason="The user revoked it.",
                    expected_revision=revision,
                )
            )
    assert outcomes == [False, True, False]
    marked = await current(database, made)
    assert (marked.state, marked.reason) == ("reauth_required", "The user revoked it.")
    assert marked.envelope() == made.envelope()


async def test_disconnecting_forgets_the_tokens_and_keeps_the_receipt(
    database: Database, world: World
) -> None:
    made = await connect(database)
    receipt = {"revoked_at_provider": True}
    async with database.transaction() as tx:
        for expected in (True, False):
            assert expected is await tx.integrations.disconnect(
                tenant_id="t1",
                connection_id=made.id,
                expected_revision=made.revision,
                receipt=receipt,
                actor="user:u1",
            )
    ended = await current(database, made)
    assert ended.envelope() == SealedTokens(access_token=None, refresh_token=None)
    assert (ended.state, ended.receipt) == (ConnectionState.DISCONNECTED, receipt)
    assert ended.revision > made.revision
    async with database.transaction() as tx:
        assert not await tx.integrations.mark(
            tenant_id="t1", connection_id=made.id, state=ConnectionState.CONNECTED, reason=None
        )
    again = await connect(database)
    assert (again.id, again.receipt) == (made.id, None)
    assert again.revision > ended.revision


async def test_a_row_that_was_put_back_does_not_open(database: Database, world: World) -> None:
    made = await connect(database)
    await connect(database, grant("access-2"))
    async with database.transaction() as tx:
        await tx.session.execute(text("UPDATE integrations SET access_token = 'access-1'"))
    with pytest.raises(EnvelopeError, match="not the one that was written last"):
        (await current(database, made)).envelope()


async def test_a_row_put_back_with_its_state_shows_in_the_audit_log(
    database: Database, world: World
) -> None:
    made = await connect(database)
    async with database.reading() as tx:
        digest = (
            await tx.session.execute(text("SELECT envelope_digest FROM connection_states"))
        ).scalar_one()
    await connect(database, grant("access-2"))
    async with database.transaction() as tx:
        await tx.session.execute(text("UPDATE integrations SET access_token = 'access-1'"))
        await tx.session.execute(
            text("UPDATE connection_states SET envelope_digest = :digest, revision = :revision"),
            {"digest": digest, "revision": made.revision},
        )
    assert (await current(database, made)).envelope() == made.envelope()
    async with database.reading() as tx:
        verdict = await tx.audit.verify("t1")
    assert verdict.state is AuditState.REWRITTEN
    assert verdict.target == f"connection:{made.id}"
