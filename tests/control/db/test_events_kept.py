"""Events: whose they are, and how old ones end without hiding a gap."""

from __future__ import annotations

from datetime import timedelta

from aura_control.db.engine import Database
from aura_control.db.models import Agent
from tests.control.db.world import Clock, World


async def tell(database: Database, world: World, user_id: str, *kinds: str) -> None:
    async with database.transaction() as tx:
        for kind in kinds:
            tx.events.append(tenant_id=world.tenant_id, user_id=user_id, kind=kind, data={})


async def kinds(database: Database, world: World, user_id: str, last_id: int = 0) -> list[str]:
    async with database.reading() as tx:
        found = await tx.events.of_user(tenant_id=world.tenant_id, user_id=user_id, last_id=last_id)
    return [event.kind for event in found]


async def test_events_are_their_users_and_no_colleagues(database: Database, world: World) -> None:
    await tell(database, world, "ada", "one", "two")
    await tell(database, world, "eve", "three")
    assert await kinds(database, world, "ada") == ["one", "two"]
    assert await kinds(database, world, "eve") == ["three"]
    async with database.reading() as tx:
        assert not await tx.events.of_user(tenant_id="t2", user_id="ada")
        newest = await tx.events.newest(tenant_id=world.tenant_id, user_id="ada")
        assert await tx.events.newest(tenant_id="t2", user_id="ada") == 0
    assert await kinds(database, world, "ada", newest) == []


async def test_an_agents_event_is_its_users_too(
    database: Database, world: World, agent: Agent
) -> None:
    async with database.transaction() as tx:
        tx.events.append(
            tenant_id=world.tenant_id,
            user_id=agent.user_id,
            agent_id=agent.id,
            kind="of-an-agent",
            data={},
        )
        tx.events.append(
            tenant_id=world.tenant_id, user_id=agent.user_id, kind="of-a-connection", data={}
        )
    async with database.reading() as tx:
        of_agent = await tx.events.after(tenant_id=world.tenant_id, agent_id=agent.id)
    assert [event.kind for event in of_agent] == ["of-an-agent"]
    assert await kinds(database, world, agent.user_id) == ["of-an-agent", "of-a-connection"]


async def test_old_events_end_and_a_gap_is_never_denied(
    database: Database, world: World, clock: Clock
) -> None:
    ids = []
    for kind in ("first", "second", "third"):
        await tell(database, world, "ada", kind)
        async with database.reading() as tx:
            ids.append(await tx.events.newest(tenant_id=world.tenant_id, user_id="ada"))
        clock.forward(days=20)
    async with database.transaction() as tx:
        assert await tx.events.prune(before=tx.now - timedelta(days=30)) >= 2
        assert await tx.events.prune(before=tx.now - timedelta(days=30)) == 0
    assert await kinds(database, world, "ada") == ["third"]
    async with database.reading() as tx:
        assert await tx.events.pruned_after(ids[0])  # the second is gone
        assert not await tx.events.pruned_after(ids[1])
        assert not await tx.events.pruned_after(ids[2])
    clock.forward(days=100)
    async with database.transaction() as tx:
        assert await tx.events.prune(before=tx.now) == 0  # the newest stays, whatever its age
    async with database.reading() as tx:
        assert await tx.events.pruned_after(ids[0])
