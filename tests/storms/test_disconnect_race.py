"""A disconnect in one process while another one is in the middle of renewing the connection."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from aura_control.bootstrap import load_vault, open_database
from aura_control.db.models import ConnectionState
from aura_control.services.disconnect import end_use
from aura_control.services.revocation import REVOCATION
from tests.storms.family_provider import FamilyProvider, Hold
from tests.storms.refreshing import World


async def end(stormy: World, name: str) -> None:
    """As DELETE does, in this process."""
    vault = load_vault(stormy.settings)
    database = open_database(stormy.settings, vault)
    try:
        async with database.transaction() as tx:
            connection = await tx.integrations.by_id(
                tenant_id=stormy.owner.tenant_id, connection_id=stormy.ids[name]
            )
            assert await end_use(tx, vault, connection, actor="user")
    finally:
        await database.close()


async def kept_to_revoke(stormy: World) -> set[str]:
    """The tokens that wait to be revoked."""
    vault = load_vault(stormy.settings)
    database = open_database(stormy.settings, vault)
    found: set[str] = set()
    try:
        async with database.reading() as tx:
            for row in await tx.revocations.of_tenant(stormy.owner.tenant_id):
                text = await vault.open_field(
                    tx, row.tenant_id, row.connection_id, REVOCATION, row.revision, row.sealed
                )
                found |= {*json.loads(text).values()}
    finally:
        await database.close()
    return found


async def ended(stormy: World, name: str) -> None:
    """The connection is disconnected, and nothing of a token is left on it."""
    row, secrets = (await stormy.found())[name]
    assert (row.state, secrets) == (ConnectionState.DISCONNECTED, {})
    assert row.renew_at is None


@pytest.mark.parametrize(
    ("stormy", "hold"),
    [("sqlite", "before"), ("sqlite", "after"), ("postgresql", "after")],
    indirect=["stormy"],
)
async def test_a_renewal_in_another_process_resurrects_nothing(
    stormy: World, provider: FamilyProvider, hold: Hold
) -> None:
    family = provider.family("late", hold=hold)
    await stormy.connect(family)
    first = {*family.alive}
    async with stormy.process() as other, asyncio.timeout(60):
        answer: asyncio.Task[dict[str, Any]] = asyncio.create_task(other.wants(1))
        await family.reached.wait()
        assert family.calls == [other.pid]
        await end(stormy, "late")  # it waits for nobody
        await ended(stormy, "late")
        family.opened.set()
        (told,) = await answer
    assert told.startswith("Conflict: "), told
    await ended(stormy, "late")
    # The provider issued a pair that nobody stored: it is revoked like the one before.
    assert family.alive - first
    assert await kept_to_revoke(stormy) == first | family.alive


@pytest.mark.parametrize("stormy", ["postgresql"], indirect=True)
async def test_a_stopped_process_that_goes_on_later_resurrects_nothing(
    stormy: World, provider: FamilyProvider
) -> None:
    """It sleeps with the provider's answer on its way, as a suspended machine does."""
    family = provider.family("asleep", hold="after")
    await stormy.connect(family)
    first = {*family.alive}
    async with stormy.process() as other, asyncio.timeout(60):
        answer = asyncio.create_task(other.wants(1))
        await family.reached.wait()
        other.signal(signal.SIGSTOP)
        family.opened.set()
        await end(stormy, "asleep")
        other.signal(signal.SIGCONT)
        (told,) = await answer
    assert told.startswith("Conflict: "), told
    await ended(stormy, "asleep")
    assert await kept_to_revoke(stormy) == first | family.alive
