"""Verifying goes on while everything else does."""

from __future__ import annotations

import asyncio
import itertools

from aura_control.db.chain import AuditState
from aura_control.services.retention import Pruner
from tests.control.audit.log import Log
from tests.control.db.world import connect, grant


async def test_a_log_is_whole_while_it_is_written_checkpointed_and_pruned(log: Log) -> None:
    await log.live()
    ended = asyncio.Event()

    async def write() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            await log.write(60)
            await connect(log.database, grant(access=f"access-{number}"))

    async def checkpoint() -> None:
        while not ended.is_set():
            await log.checkpointer.deliver()
            await asyncio.sleep(0)

    async def prune() -> None:
        pruner = Pruner(database=log.database, batch=20)
        while not ended.is_set():
            log.clock.forward(days=30)
            await pruner.sweep()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for task in (write(), checkpoint(), prune()):
            group.create_task(task)
        before = now = await log.verify()
        seen = [before]
        # Until all three went on meanwhile, and a few times.
        while now.first == before.first or now.checkpoints < 6 or len(seen) < 8:
            now = await log.verify()
            seen.append(now)
        ended.set()
    assert {verdict.state for verdict in seen} == {AuditState.WHOLE}, seen
