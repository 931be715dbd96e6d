"""An agent's counters in the database: one agent's calls, whichever process makes them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select

from aura_control.db.engine import Database
from aura_control.db.models import Agent, AgentUsage
from aura_control.services.conduct import AgentMeter
from aura_core.errors import LimitReached, NotFound
from aura_core.manifest import TokenUsage
from aura_core.permissions import TOKENS, AgentPermissions, Count, Decision, minute_of
from tests.control.db.taking import CALLS, LIMIT, PERMISSIONS, SEND
from tests.control.db.world import Clock, World

MODEL = Decision(
    allowed=True,
    needs=("email:send",),
    rule="scope:email:send",
    usage=TokenUsage(path="/x", tokens=(("usage",),)),
)


async def test_four_processes_do_not_get_more(
    url: str, world: World, agent: Agent, database: Database
) -> None:
    command = [sys.executable, "-m", "tests.control.db.taking", url, world.tenant_id, agent.id]
    processes = [
        await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        for _ in range(4)
    ]
    async with asyncio.timeout(50):
        said = [(await process.communicate())[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    taken, refused = map(sum, zip(*(map(int, text.split()) for text in said), strict=True))
    assert (taken, refused) == (LIMIT, 4 * CALLS - LIMIT)
    async with database.reading() as tx:
        assert await tx.session.scalar(select(func.sum(AgentUsage.number))) == LIMIT


async def test_what_was_used_comes_back_and_is_forgotten(
    database: Database, agent: Agent, clock: Clock
) -> None:
    meter = AgentMeter(database, agent, PERMISSIONS)
    for _ in range(LIMIT):
        await meter.take(SEND)
    with pytest.raises(LimitReached) as caught:
        await meter.take(SEND)
    clock.forward(seconds=caught.value.retry_after)
    await meter.take(SEND)
    clock.forward(days=2)
    await meter.take(SEND)
    async with database.reading() as tx:
        assert await tx.session.scalar(select(func.count()).select_from(AgentUsage)) == 1


async def test_a_refund_is_one_call_and_never_more(database: Database, agent: Agent) -> None:
    meter = AgentMeter(database, agent, PERMISSIONS)
    taken = await meter.take(SEND)
    for _ in range(3):
        await meter.refund(taken)
    for _ in range(LIMIT):
        await meter.take(SEND)
    with pytest.raises(LimitReached):
        await meter.take(SEND)


async def test_tokens_are_counted_for_the_day(
    database: Database, agent: Agent, clock: Clock
) -> None:
    meter = AgentMeter(database, agent, AgentPermissions(max_daily_token_spend=100))
    await meter.take(MODEL)
    await meter.spend(60)
    await meter.spend(0)
    await meter.take(MODEL)
    clock.forward(hours=5)
    await meter.spend(40)
    with pytest.raises(LimitReached) as caught:
        await meter.take(MODEL)
    assert caught.value.rule == "spend:day"
    clock.forward(hours=19, minutes=1)
    await meter.take(MODEL)


async def test_another_tenants_agent_is_none(
    database: Database, agent: Agent, world: World, clock: Clock
) -> None:
    minute = minute_of(clock())
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await tx.limits.lock(tenant_id=world.other_tenant_id, agent_id=agent.id)
        await tx.limits.add(
            tenant_id=world.tenant_id,
            agent_id=agent.id,
            source="control",
            counts=[Count(TOKENS, minute, 5)],
        )
        found = await tx.limits.counts(
            tenant_id=world.other_tenant_id, agent_id=agent.id, whats={TOKENS}, since=0
        )
        assert found == []


async def test_a_deleted_agent_leaves_no_counts(
    database: Database, agent: Agent, world: World
) -> None:
    await AgentMeter(database, agent, PERMISSIONS).take(SEND)
    async with database.transaction() as tx:
        await tx.agents.delete(tenant_id=world.tenant_id, agent_id=agent.id, actor="user:u1")
    async with database.reading() as tx:
        assert await tx.session.scalar(select(func.count()).select_from(AgentUsage)) == 0


async def test_sources_do_not_overwrite_each_other(
    database: Database, agent: Agent, world: World, clock: Clock
) -> None:
    minute, who = minute_of(clock()), {"tenant_id": world.tenant_id, "agent_id": agent.id}
    async with database.transaction() as tx:
        await tx.limits.add(**who, source="control", counts=[Count("a:b", minute, 2)])
        for number in (3, 5, 4):  # a machine reports the same minute again
            await tx.limits.put(**who, source="i1", counts=[Count("a:b", minute, number)])
    async with database.reading() as tx:
        for but, number in ((None, 6), ("i1", 2), ("control", 4)):
            found = await tx.limits.counts(
                tenant_id=world.tenant_id, agent_id=agent.id, whats={"a:b"}, since=0, but=but
            )
            assert found == [Count("a:b", minute, number)]
