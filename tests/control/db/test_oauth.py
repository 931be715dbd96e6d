"""An authorization under way is used once, in time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from aura_control.db.engine import Database
from aura_control.db.models import OAuthTransaction
from aura_core.errors import NotFound
from tests.control.db.world import Clock, World

STATE = "5e" * 32


async def _start(database: Database, *, tenant_id: str = "t1") -> None:
    async with database.transaction() as tx:
        await tx.oauth.start(
            tenant_id=tenant_id,
            user_id="u1",
            provider="google",
            auth_method="oauth2",
            state_hash=STATE,
            verifier="sealed",
            binding_hash="b1" * 32,
            redirect_uri="https://aura.example.org/api/integrations/google/callback",
            expires_at=tx.now + timedelta(minutes=10),
            agent_id="a1",
            config={"subdomain": "ada"},
        )


async def _consume(database: Database) -> OAuthTransaction | None:
    async with database.transaction() as tx:
        return await tx.oauth.consume(STATE)


async def test_of_callbacks_at_the_same_time_one_gets_it(database: Database, world: World) -> None:
    await _start(database)
    found = await asyncio.gather(*(_consume(database) for _ in range(4)))
    (row,) = [row for row in found if row is not None]
    assert (row.tenant_id, row.user_id, row.provider) == ("t1", "u1", "google")
    assert (row.verifier, row.agent_id, row.config) == ("sealed", "a1", {"subdomain": "ada"})


async def test_it_expires(database: Database, world: World, clock: Clock) -> None:
    await _start(database)
    clock.forward(minutes=10)
    assert await _consume(database) is None


async def test_expired_ones_are_forgotten(database: Database, world: World, clock: Clock) -> None:
    await _start(database)
    for minutes, kept in ((9, True), (2, False)):
        clock.forward(minutes=minutes)
        async with database.transaction() as tx:
            await tx.oauth.forget(before=tx.now)
            assert (await tx.session.get(OAuthTransaction, STATE) is not None) is kept


async def test_another_tenants_user_cannot_start_one(database: Database, world: World) -> None:
    with pytest.raises(NotFound):
        await _start(database, tenant_id="t2")
