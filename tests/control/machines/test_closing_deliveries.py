"""A deliverer that ends leaves nothing behind that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from aura_control.db.models import Delivery, Instance
from aura_control.db.transaction import Transaction
from aura_control.services.deliverer import OutboxDeliverer
from aura_control.services.sealing import Sealer
from aura_control.services.skills import Skills
from aura_core.registry import Registry
from tests.control.machines.outbox import Outbox, _Nobody


class _Slow(Sealer):
    """Seals when it is told to."""

    def __init__(self, outbox: Outbox, registry: Registry) -> None:
        super().__init__(vault=outbox.vault, providers=outbox.providers, skills=Skills(registry))
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def sealed_all(
        self, tx: Transaction, rows: Sequence[tuple[Delivery, Instance]]
    ) -> Sequence[Delivery | Exception | None]:
        self.reached.set()
        await self.opened.wait()
        return await super().sealed_all(tx, rows)


@pytest.fixture
async def outbox(migrated: Path, registry: Registry, tmp_path: Path) -> AsyncIterator[Outbox]:
    (tmp_path / "outbox").mkdir()
    outbox = Outbox(migrated, tmp_path / "outbox")
    await outbox.open()
    yield outbox
    await outbox.close()


async def test_what_is_being_sealed_when_it_closes_is_not_sent(
    outbox: Outbox, registry: Registry
) -> None:
    sealer = _Slow(outbox, registry)
    deliverer = OutboxDeliverer(
        database=outbox.database,
        sealer=sealer,
        vault=outbox.vault,
        machines=outbox.client,
        workflows=_Nobody(),
        clock=outbox.time,
    )
    running = asyncio.create_task(deliverer.run())
    await sealer.reached.wait()
    before = asyncio.all_tasks()
    await deliverer.close()
    sealer.opened.set()
    await running
    assert asyncio.all_tasks() <= before, "a lane that nobody waits for"
    assert outbox.network.reached == []
