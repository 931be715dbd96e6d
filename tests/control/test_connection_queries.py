"""Queries that connecting, renewing and the metrics rest on, on both databases."""

from __future__ import annotations

from datetime import timedelta

from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState, DeliveryOp, Instance
from tests.control.db.conftest import (
    agent,
    clock,
    database,
    instance,
    postgres,
    sqlite_template,
    url,
    world,
)
from tests.control.db.world import EXPIRY, Clock, World, connect, grant

__all__ = ["agent", "clock", "database", "instance", "postgres", "sqlite_template", "url", "world"]


async def test_a_link_is_bound_once(database: Database, world: World, clock: Clock) -> None:
    async with database.transaction() as tx:
        await tx.oauth.start(
            tenant_id=world.tenant_id,
            user_id=world.user_id,
            provider="google",
            auth_method="oauth2",
            state_hash="s",
            verifier="sealed",
            binding_hash="",
            redirect_uri="http://127.0.0.1/callback",
            expires_at=clock() + timedelta(minutes=10),
        )
    async with database.transaction() as tx:
        bound = await tx.oauth.bind("s", binding_hash="mine")
        assert bound is not None
        assert bound.binding_hash == "mine"
        assert await tx.oauth.bind("s", binding_hash="yours") is None
        assert await tx.oauth.bind("unknown", binding_hash="mine") is None


async def test_a_link_ends(database: Database, world: World, clock: Clock) -> None:
    async with database.transaction() as tx:
        await tx.oauth.start(
            tenant_id=world.tenant_id,
            user_id=world.user_id,
            provider="google",
            auth_method="oauth2",
            state_hash="s",
            verifier="sealed",
            binding_hash="",
            redirect_uri="http://127.0.0.1/callback",
            expires_at=clock() + timedelta(minutes=10),
        )
    clock.forward(minutes=11)
    async with database.transaction() as tx:
        assert await tx.oauth.bind("s", binding_hash="mine") is None


async def test_what_ends_is_found_page_by_page(database: Database, world: World) -> None:
    made = {
        (await connect(database, grant(refresh=refresh), provider=provider)).id
        for provider, refresh in (("a", "r"), ("b", None), ("c", "r"))
    }
    found: list[str] = []
    async with database.reading() as tx:
        assert await tx.integrations.due(before=EXPIRY - timedelta(seconds=1)) == []
        while page := await tx.integrations.due(
            before=EXPIRY, after=(EXPIRY, found[-1]) if found else None, limit=2
        ):
            found += [connection.id for connection in page]
    assert found == sorted(made)


async def test_one_subject_on_every_machine(
    database: Database, world: World, instance: Instance
) -> None:
    async with database.transaction() as tx:
        await tx.deliveries.desire(
            tenant_id=world.tenant_id,
            instance_id=instance.id,
            subject="c1",
            op=DeliveryOp.PUT,
        )
    async with database.reading() as tx:
        (row,) = await tx.deliveries.for_subject(tenant_id=world.tenant_id, subject="c1")
        assert row.instance_id == instance.id
        assert await tx.deliveries.for_subject(tenant_id="t2", subject="c1") == []
        assert await tx.gauges.pending_deliveries() == 1


async def test_another_users_machine_is_not_among_a_users(
    database: Database, world: World, instance: Instance
) -> None:
    async with database.transaction() as tx:
        stranger = await tx.users.create(
            tenant_id=world.tenant_id, user_id="u9", email="nine@example.org", actor="system"
        )
        # What a machine claims to hold is wanted deleted there, whoever's it is.
        await tx.deliveries.desire(
            tenant_id=world.tenant_id,
            instance_id=instance.id,
            subject="c1",
            op=DeliveryOp.DELETE,
        )
    async with database.reading() as tx:
        ((row, machine),) = await tx.deliveries.of_user(
            tenant_id=world.tenant_id, user_id=instance.user_id, subjects=["c1", "c2"]
        )
        assert (row.subject, machine.agent_id) == ("c1", instance.agent_id)
        for tenant_id, user_id in ((world.tenant_id, stranger.id), ("t2", instance.user_id)):
            assert not await tx.deliveries.of_user(
                tenant_id=tenant_id, user_id=user_id, subjects=["c1"]
            )


async def test_connections_are_counted_by_state(database: Database, world: World) -> None:
    await connect(database)
    async with database.reading() as tx:
        counts = await tx.gauges.connections()
    assert counts[ConnectionState.CONNECTED] == 1
    assert set(counts) == set(ConnectionState)
    assert sum(counts.values()) == 1
