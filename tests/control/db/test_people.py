"""Tenants, users and API tokens."""

from __future__ import annotations

from datetime import timedelta

import pytest

from aura_control.db.engine import Database
from aura_control.db.models import ApiToken
from aura_core.errors import Conflict, NotFound
from tests.control.db.world import Clock, World


async def _issue(database: Database, world: World, *, hours: int | None = None) -> ApiToken:
    async with database.transaction() as tx:
        return await tx.tokens.issue(
            tenant_id=world.tenant_id,
            user_id=world.user_id,
            name="laptop",
            token_hash="ab" * 32,
            expires_at=None if hours is None else tx.now + timedelta(hours=hours),
            actor="system",
        )


async def test_an_address_belongs_to_one_person(database: Database, world: World) -> None:
    with pytest.raises(Conflict):
        async with database.transaction() as tx:
            await tx.users.create(
                tenant_id=world.other_tenant_id,
                user_id="u9",
                email="u1@example.org",
                actor="system",
            )


async def test_another_tenants_user_is_not_found(database: Database, world: World) -> None:
    async with database.reading() as tx:
        assert (await tx.users.get(tenant_id="t1", user_id="u1")).email == "u1@example.org"
        with pytest.raises(NotFound):
            await tx.users.get(tenant_id=world.other_tenant_id, user_id=world.user_id)
    with pytest.raises(NotFound):
        async with database.transaction() as tx:
            await tx.tokens.issue(
                tenant_id=world.other_tenant_id,
                user_id=world.user_id,
                name="stolen",
                token_hash="cd" * 32,
                expires_at=None,
                actor="system",
            )


async def test_a_token_speaks_for_its_user(database: Database, world: World) -> None:
    token = await _issue(database, world)
    async with database.reading() as tx:
        principal = await tx.tokens.authenticate("ab" * 32)
        assert principal is not None
        assert (principal.tenant_id, principal.user_id) == ("t1", "u1")
        assert (principal.email, principal.token_id) == ("u1@example.org", token.id)
        assert principal.actor == "user:u1"
        assert await tx.tokens.authenticate("ac" * 32) is None


async def test_a_token_expires(database: Database, world: World, clock: Clock) -> None:
    await _issue(database, world, hours=1)
    for minutes, valid in ((59, True), (1, False)):
        clock.forward(minutes=minutes)
        async with database.reading() as tx:
            assert (await tx.tokens.authenticate("ab" * 32) is not None) is valid


async def test_a_token_is_revoked_once_and_by_its_own_tenant(
    database: Database, world: World
) -> None:
    token = await _issue(database, world)
    async with database.transaction() as tx:
        assert not await tx.tokens.revoke(tenant_id="t2", token_id=token.id, actor="user:u2")
        assert await tx.tokens.authenticate("ab" * 32) is not None
        assert await tx.tokens.revoke(tenant_id="t1", token_id=token.id, actor="user:u1")
        assert not await tx.tokens.revoke(tenant_id="t1", token_id=token.id, actor="user:u1")
        assert await tx.tokens.authenticate("ab" * 32) is None
        listed = await tx.tokens.list(tenant_id="t1", user_id="u1")
        assert [row.revoked_at for row in listed] == [tx.now]
        assert await tx.tokens.list(tenant_id="t2", user_id="u1") == []


async def test_the_first_commitment_of_a_key_stays(database: Database, world: World) -> None:
    async with database.transaction() as tx:
        for commitment in (b"a" * 32, b"b" * 32):
            await tx.tenants.record_commitment("t1", kid="m3", commitment=commitment)
        await tx.tenants.record_commitment("t1", kid="m4", commitment=b"c" * 32)
    async with database.reading() as tx:
        found = await tx.tenants.commitments("t1")
        assert (found["m3"], found["m4"]) == (b"a" * 32, b"c" * 32)
        assert set(await tx.tenants.commitments("t2")) == {"m1"}  # its audit key's


async def test_all_tenants(database: Database, world: World) -> None:
    async with database.reading() as tx:
        assert [tenant.id for tenant in await tx.tenants.list()] == ["t1", "t2"]
        with pytest.raises(NotFound):
            await tx.tenants.get("t9")


async def test_a_salt_has_its_length(database: Database) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        async with database.transaction() as tx:
            await tx.tenants.create(tenant_id="t", name="", kdf_salt=b"x", actor="system")
