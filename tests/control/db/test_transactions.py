"""One transaction: all or nothing, in turn, and never behind the repositories' back."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from aura_control.db.engine import Database
from aura_control.db.models import Agent
from aura_core.errors import Unavailable
from tests.control.db.world import Clock, World


async def test_an_error_takes_everything_back(database: Database, world: World) -> None:
    async def fail() -> None:
        async with database.transaction() as tx:
            await tx.users.create(
                tenant_id=world.tenant_id, user_id="u9", email="nine@example.org", actor="system"
            )
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.reading() as tx:
        assert await tx.users.by_email("nine@example.org") is None
        targets = [entry.target for entry in await tx.audit.entries(tenant_id=world.tenant_id)]
    assert "user:u9" not in targets


async def test_a_changed_row_is_not_written_behind_the_audit_log(
    database: Database, agent: Agent
) -> None:
    async def rename() -> None:
        async with database.transaction() as tx:
            row = await tx.agents.get(tenant_id="t1", agent_id=agent.id)
            row.name = "Eve"

    with pytest.raises(RuntimeError, match="through a repository"):
        await rename()


async def test_a_reading_transaction_cannot_write(database: Database, world: World) -> None:
    with pytest.raises(DBAPIError):
        async with database.reading() as tx:
            await tx.session.execute(text("UPDATE users SET email = 'x'"))
    with pytest.raises(RuntimeError, match="cannot write"):
        async with database.reading() as tx:
            tx.events.append(tenant_id=world.tenant_id, user_id="u", kind="k", data={})
    async with database.transaction() as tx:  # and the connection writes again afterwards
        await tx.tenants.create(tenant_id="t3", name="", kdf_salt=bytes(32), actor="system")


async def test_closing_waits_for_what_is_under_way_and_refuses_what_comes_late(
    database: Database, world: World
) -> None:
    began, end = asyncio.Event(), asyncio.Event()

    async def read() -> int:
        async with database.reading() as tx:
            began.set()
            await end.wait()
            return len(await tx.users.list(tenant_id=world.tenant_id))

    reading = asyncio.create_task(read())
    await began.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        async with database.reading():
            pass
    with pytest.raises(Unavailable):
        async with database.transaction():
            pass
    assert not closing.done()
    end.set()
    assert await reading > 0
    await closing


async def test_a_reader_sees_one_moment_and_waits_for_nobody(
    database: Database, world: World
) -> None:
    async with database.reading() as tx:
        before = await tx.users.list(tenant_id=world.tenant_id)
        async with database.transaction() as other:
            await other.users.create(
                tenant_id=world.tenant_id, user_id="u9", email="nine@example.org", actor="system"
            )
        assert await tx.users.list(tenant_id=world.tenant_id) == before


async def test_all_rows_of_a_transaction_carry_one_time(
    database: Database, world: World, clock: Clock
) -> None:
    async with database.transaction() as tx:
        clock.forward(hours=1)
        user = await tx.users.create(
            tenant_id=world.tenant_id, user_id="u9", email="nine@example.org", actor="system"
        )
        assert user.created_at == tx.now
        assert user.created_at.tzinfo is not None
    async with database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=world.tenant_id, limit=1)
    assert entries[0].at == user.created_at


async def test_writers_at_the_same_time_all_get_their_turn(
    database: Database, world: World
) -> None:
    async def write(number: int) -> None:
        async with database.transaction() as tx:
            await tx.audit.append(
                world.tenant_id, action="test", actor="system", target=str(number)
            )

    await asyncio.gather(*(write(number) for number in range(30)))
    async with database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=world.tenant_id)
        verdict = await tx.audit.verify(world.tenant_id)
    assert {entry.target for entry in entries} >= {str(number) for number in range(30)}
    assert verdict.state == "whole"


async def test_a_cancelled_writer_leaves_nothing_and_blocks_nobody(
    database: Database, world: World
) -> None:
    reached = asyncio.Event()

    async def write() -> None:
        async with database.transaction() as tx:
            await tx.audit.append(world.tenant_id, action="lost", actor="system", target="x")
            await tx.journal.flush()
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as tx:
        await tx.audit.append(world.tenant_id, action="kept", actor="system", target="x")
    async with database.reading() as tx:
        actions = [entry.action for entry in await tx.audit.entries(tenant_id=world.tenant_id)]
    assert "lost" not in actions
    assert actions[0] == "kept"


async def test_an_error_does_not_repeat_what_it_was_given(database: Database, world: World) -> None:
    salt = b"salt-that-nobody-may-read-4711-x"
    with pytest.raises(DBAPIError) as caught:
        async with database.transaction() as tx:
            await tx.tenants.create(
                tenant_id=world.tenant_id, name="again", kdf_salt=salt, actor="system"
            )
    assert salt.decode() not in str(caught.value)
