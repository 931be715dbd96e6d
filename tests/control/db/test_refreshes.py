"""The refresh intent and the compare-and-swap after it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from aura_control.db.connection import Connection, SealedTokens
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from tests.control.db.world import EXPIRY, Clock, World, connect, current, grant


async def _begin(database: Database, connection: Connection) -> bool:
    async with database.transaction() as tx:
        return await tx.integrations.begin_refresh(
            tenant_id="t1", connection_id=connection.id, expected_revision=connection.revision
        )


async def _apply(database: Database, connection: Connection, token: str) -> bool:
    async with database.transaction() as tx:
        stored = await tx.integrations.apply_refresh(
            tenant_id="t1",
            connection_id=connection.id,
            expected_revision=connection.revision,
            revision=tx.integrations.next_revision(connection.revision),
            tokens=SealedTokens(access_token=token, refresh_token="refresh-2"),
            token_expiry=EXPIRY + timedelta(hours=1),
            scopes=("mail.read",),
        )
    assert stored is None or stored == await current(database, connection)
    return stored is not None


async def test_an_intent_that_was_put_off_is_no_interrupted_one(
    database: Database, world: World, clock: Clock
) -> None:
    made = await connect(database)
    assert await _begin(database, made)
    async with database.transaction() as tx:
        assert await tx.integrations.postpone(
            tenant_id="t1",
            connection_id=made.id,
            expected_revision=made.revision,
            until=tx.now + timedelta(minutes=5),
        )
    for number in (0, 1):
        async with database.reading() as tx:
            assert len(await tx.integrations.open_intents()) == number
        clock.forward(minutes=6)


async def test_new_tokens_close_the_intent(database: Database, world: World) -> None:
    made = await connect(database)
    assert await _begin(database, made)
    async with database.reading() as tx:
        (intent,) = await tx.integrations.open_intents()
        assert (intent.id, intent.refresh_generation) == (made.id, made.revision)
        assert intent.refresh_started_at == tx.now
    assert await _apply(database, made, "access-2")
    refreshed = await current(database, made)
    assert refreshed.envelope().access_token == "access-2"
    assert refreshed.revision == made.revision + 1
    assert refreshed.scopes == ("mail.read",)
    assert refreshed.token_expiry == EXPIRY + timedelta(hours=1)
    async with database.reading() as tx:
        assert await tx.integrations.open_intents() == []
        actions = [entry.action for entry in await tx.audit.entries(tenant_id="t1", limit=2)]
    assert actions == ["connection.refreshed", "connection.refresh_started"]


async def test_of_refreshers_at_the_same_time_one_stores_its_tokens(
    database: Database, world: World
) -> None:
    made = await connect(database)
    outcomes = await asyncio.gather(
        *(_apply(database, made, f"access-{number}") for number in range(5))
    )
    assert sorted(outcomes) == [False, False, False, False, True]
    winner = outcomes.index(True)
    assert (await current(database, made)).envelope().access_token == f"access-{winner}"


async def test_an_intent_for_spent_tokens_is_not_opened(database: Database, world: World) -> None:
    made = await connect(database)
    await connect(database, grant("access-2"))
    assert not await _begin(database, made)


async def test_an_intent_that_is_open_keeps_its_beginning(
    database: Database, world: World, clock: Clock
) -> None:
    made = await connect(database)
    began = clock.now
    assert await _begin(database, made)
    clock.forward(seconds=20)
    assert await _begin(database, made)
    assert (await current(database, made)).refresh_started_at == began


async def test_an_intent_is_ended_by_its_own_generation(database: Database, world: World) -> None:
    made = await connect(database)
    await _begin(database, made)
    async with database.transaction() as tx:
        for generation, ended in ((made.revision - 1, False), (made.revision, True)):
            assert ended is await tx.integrations.end_refresh(
                tenant_id="t1", connection_id=made.id, generation=generation
            )
        assert await tx.integrations.open_intents() == []


async def test_needing_the_user_closes_the_intent(database: Database, world: World) -> None:
    made = await connect(database)
    await _begin(database, made)
    async with database.transaction() as tx:
        assert await tx.integrations.mark(
            tenant_id="t1",
            connection_id=made.id,
            state=ConnectionState.REAUTH_REQUIRED,
            reason="invalid_grant",
        )
        assert await tx.integrations.open_intents() == []


async def test_what_expires_soon_is_found(database: Database, world: World) -> None:
    made = await connect(database)
    await connect(database, grant(refresh=None), provider="slack")
    other = await connect(database, tenant_id="t2", user_id="u2")
    async with database.transaction() as tx:
        await tx.integrations.mark(
            tenant_id="t2",
            connection_id=other.id,
            state=ConnectionState.REAUTH_REQUIRED,
            reason="revoked",
        )
    async with database.reading() as tx:
        assert await tx.integrations.due(before=EXPIRY - timedelta(seconds=1)) == []
        assert await tx.integrations.next_due(after=EXPIRY - timedelta(seconds=1)) == EXPIRY
        soon = await tx.integrations.due(before=EXPIRY, excluding=["slack"])
        assert [row.id for row in soon] == [made.id]
        assert len(await tx.integrations.due(before=EXPIRY)) == 2, "it is told of too"
