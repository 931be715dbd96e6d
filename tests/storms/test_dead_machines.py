"""Half of a user's machines are dead, and the other half does not notice."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from aura_control.services.deliverer import Pace
from benchmarks.outbox import Outbox
from tests.control.db.test_fanout import Fleet, fleet
from tests.postgres import Postgres

pytestmark = pytest.mark.storm

MACHINES, DEAD = 400, 200
PACE = replace(Pace(), drain=0.1)
"""As in production. A dead machine takes the connection and says nothing for ever."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aura.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create()


async def seconds(outbox: Outbox, *, but: int) -> float:
    """From the commit of new tokens to the last receipt of those that live."""
    await outbox.renew()
    began = time.monotonic()
    await outbox.held_by_all_but(but)
    return time.monotonic() - began


async def test_half_of_all_machines_are_dead(url: str) -> None:
    async with fleet(url, MACHINES, PACE) as (outbox, network), outbox.delivering():
        alive = [await seconds(outbox, but=0) for _ in range(3)]
        network.silent = network.hosts(DEAD)
        found_out = await seconds(outbox, but=DEAD)
        # Nobody knew them for dead: 200 of 256 lanes wait out their second, the others go on.
        assert found_out < max(alive) + PACE.patience + 1.0, (alive, found_out)
        while await unknown(outbox, network):
            await seconds(outbox, but=DEAD)
        later = [await seconds(outbox, but=DEAD) for _ in range(5)]
        # Known to be: 64 lanes are theirs, for twelve seconds each. The living take no more than
        # when all lived, who were twice as many; the second is for what else this machine does.
        assert max(later) < max(alive) + 1.0, (alive, later)
        living = [vm for host, vm in network.vms.items() if host not in network.silent]
        assert len({held.revision for vm in living for held in vm.held.values()}) == 1


async def unknown(outbox: Outbox, network: Fleet) -> bool:
    """Whether some of the dead have not been found out."""
    async with outbox.database.reading() as tx:
        rows = await tx.deliveries.of_instances(outbox.instance_ids)
    dead = {host.removesuffix(".test") for host in network.silent}
    return any(not row.attempts for one in dead for row in rows[one] if row.acked_revision)
