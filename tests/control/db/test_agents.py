"""Agents and the connections that they may use."""

from __future__ import annotations

import asyncio

import pytest

from aura_control.db.engine import Database
from aura_control.db.models import Agent
from aura_core.errors import NotFound
from tests.control.db.world import World


async def test_an_agent_is_listed_for_its_user(
    database: Database, world: World, agent: Agent
) -> None:
    async with database.reading() as tx:
        (listed,) = await tx.agents.list(tenant_id="t1", user_id="u1")
        assert await tx.agents.list(tenant_id="t2", user_id="u1") == []
    assert (listed.id, listed.name) == (agent.id, "Ada")
    assert listed.permissions == {"scopes": ["email:read"]}


async def test_who_reads_to_change_waits_for_who_changes(database: Database, agent: Agent) -> None:
    common = {"tenant_id": "t1", "actor": "user:u1"}
    read = asyncio.Event()

    async def add(scope: str) -> None:
        async with database.transaction() as tx:
            found = await tx.agents.get(tenant_id="t1", agent_id=agent.id, to_change=True)
            read.set()
            await asyncio.sleep(0.05)  # what the other one would read meanwhile
            scopes = [*found.permissions["scopes"], scope]
            await tx.agents.update(
                **common, agent_id=agent.id, changes={"permissions": {"scopes": scopes}}
            )

    first = asyncio.create_task(add("email:send"))
    await read.wait()
    await asyncio.gather(first, add("files:read"))
    async with database.reading() as tx:
        now = await tx.agents.get(tenant_id="t1", agent_id=agent.id)
    assert now.permissions == {"scopes": ["email:read", "email:send", "files:read"]}


async def test_another_tenants_agent_is_not_found(
    database: Database, world: World, agent: Agent
) -> None:
    common = {"tenant_id": "t2", "agent_id": agent.id}
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await tx.agents.get(tenant_id="t2", agent_id=agent.id)
        with pytest.raises(NotFound):
            await tx.agents.update(**common, changes={"name": "Eve"}, actor="user:u2")
        with pytest.raises(NotFound):
            await tx.agents.enable(**common, provider="google", actor="user:u2")
        with pytest.raises(NotFound):
            await tx.agents.disable(**common, provider="google", actor="user:u2")
        with pytest.raises(NotFound):
            await tx.instances.create(**common, compute="local", actor="user:u2")
        with pytest.raises(NotFound):
            await tx.agents.create(
                tenant_id="t2",
                user_id="u1",
                name="Eve",
                compute="local",
                runtime="basic",
                persona={},
                permissions={},
                config={},
                actor="user:u2",
            )
        assert not await tx.agents.delete(**common, actor="user:u2")
        assert await tx.agents.providers(**common) == []


async def test_an_agent_is_changed(database: Database, world: World, agent: Agent) -> None:
    async with database.transaction() as tx:
        changed = await tx.agents.update(
            tenant_id="t1",
            agent_id=agent.id,
            changes={"name": "Grace", "persona": {"tone": "dry"}},
            actor="user:u1",
        )
        assert (changed.name, changed.persona) == ("Grace", {"tone": "dry"})
        with pytest.raises(ValueError, match="compute"):
            await tx.agents.update(
                tenant_id="t1", agent_id=agent.id, changes={"compute": "x"}, actor="user:u1"
            )
    async with database.reading() as tx:
        (entry,) = await tx.audit.entries(tenant_id="t1", agent_id=agent.id, limit=1)
    assert (entry.action, entry.metadata) == ("agent.updated", {"fields": ["name", "persona"]})


async def test_an_agent_is_deleted_once(database: Database, world: World, agent: Agent) -> None:
    async with database.transaction() as tx:
        for expected in (True, False):
            assert expected is await tx.agents.delete(
                tenant_id="t1", agent_id=agent.id, actor="user:u1"
            )
        assert await tx.agents.list(tenant_id="t1", user_id="u1") == []
        with pytest.raises(NotFound):
            await tx.agents.get(tenant_id="t1", agent_id=agent.id)


async def test_integrations_are_enabled_and_disabled(
    database: Database, world: World, agent: Agent
) -> None:
    common = {"tenant_id": "t1", "agent_id": agent.id, "actor": "user:u1"}
    async with database.transaction() as tx:
        assert await tx.agents.enable(**common, provider="slack")
        assert await tx.agents.enable(**common, provider="google")
        assert not await tx.agents.enable(**common, provider="google")
        assert await tx.agents.providers(tenant_id="t1", agent_id=agent.id) == ["google", "slack"]
        using = await tx.agents.using(tenant_id="t1", user_id="u1", provider="google")
        assert [row.id for row in using] == [agent.id]
        assert await tx.agents.using(tenant_id="t1", user_id="u2", provider="google") == []
        assert await tx.agents.disable(**common, provider="google")
        assert not await tx.agents.disable(**common, provider="google")
        assert await tx.agents.using(tenant_id="t1", user_id="u1", provider="google") == []
    async with database.reading() as tx:
        entries = await tx.audit.entries(tenant_id="t1", agent_id=agent.id)
    assert [entry.action for entry in entries] == [
        "agent.integration_disabled",
        "agent.integration_enabled",
        "agent.integration_enabled",
        "agent.created",
    ]
