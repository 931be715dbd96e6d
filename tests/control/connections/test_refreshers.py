"""Refreshers that share nothing but the database and the lock files, as processes do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from aura_control.clients.locks import FileLocks
from aura_control.db.models import ConnectionState
from aura_control.services.backoff import Backoffs
from aura_control.services.refresh import Refresher
from aura_control.services.renewal import Renewal
from aura_core.errors import RefreshFailed
from tests.control.connections.conftest import Control
from tests.control.connections.provider import Gate


class WatchedLocks(FileLocks):
    """Counts who asks, and says when somebody is about to wait."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.asked = 0
        self.waiting = asyncio.Event()

    @asynccontextmanager
    async def hold(self, name: str, *, wait: float | None = None) -> AsyncIterator[None]:
        self.asked += 1
        if wait:
            self.waiting.set()
        async with super().hold(name, wait=wait):
            yield


def second_refresher(control: Control, locks: FileLocks | None = None) -> Refresher:
    services = control.services
    return Refresher(
        database=services.database,
        vault=services.vault,
        providers=services.providers,
        locks=locks or FileLocks(services.settings.data_dir / "locks"),
        clock=services.clock,
        refreshed=lambda connection: None,
    )


async def test_many_in_one_process_take_the_lock_once(control: Control) -> None:
    """A thousand threads that wait for one file would be the other way."""
    await control.connect()
    control.clock.forward(minutes=59)
    locks = WatchedLocks(control.services.settings.data_dir / "locks")
    refresher, connection = second_refresher(control, locks), await control.connection()
    where = connection.tenant_id, connection.id
    renewed = await asyncio.gather(
        *(refresher.refresh(tenant_id=where[0], connection_id=where[1]) for _ in range(50))
    )
    assert locks.asked == 1
    assert {one.revision for one in renewed} == {(await control.connection()).revision}


async def test_two_refreshers_make_one_call(control: Control) -> None:
    """The second one shares nothing with the first but the database and the lock files."""
    control.provider.grace = False
    await control.connect()
    control.clock.forward(minutes=59)
    other = second_refresher(control)
    gate, rival = Gate(), Gate()
    rival.opened.set()
    control.provider.faults.extend([gate.fault, rival.fault])
    connection = await control.connection()
    tenant_id, connection_id = connection.tenant_id, connection.id
    first = asyncio.create_task(
        control.services.refresher.refresh(tenant_id=tenant_id, connection_id=connection_id)
    )
    await gate.reached.wait()
    second = asyncio.create_task(other.refresh(tenant_id=tenant_id, connection_id=connection_id))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rival.reached.wait(), 0.3)
    gate.opened.set()
    one, two = await asyncio.gather(first, second)
    assert one.revision == two.revision
    assert control.provider.count("/token") == 2
    assert (await control.connection()).state is ConnectionState.CONNECTED


async def test_who_waited_for_a_refresh_that_failed_does_not_ask_again_at_once(
    control: Control,
) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    locks, gate = WatchedLocks(control.services.settings.data_dir / "locks"), Gate()
    other = second_refresher(control, locks)

    async def failing(request: httpx.Request) -> httpx.Response:
        await gate.fault(request)
        return httpx.Response(503)

    control.provider.faults.append(failing)
    connection = await control.connection()

    async def asked(refresher: Refresher) -> None:
        await refresher.refresh(tenant_id=connection.tenant_id, connection_id=connection.id)

    first = asyncio.create_task(asked(control.services.refresher))
    await gate.reached.wait()
    second = asyncio.create_task(asked(other))
    await locks.waiting.wait()
    gate.opened.set()
    failed = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(error) for error in failed] == [RefreshFailed, RefreshFailed]
    assert control.provider.count("/token") == 2, "one call beside the one that connected"
    control.clock.now = (await control.connection()).renew_at or control.clock.now
    await asked(other)
    assert (await control.connection()).state is ConnectionState.CONNECTED


async def test_what_was_stored_since_it_was_read_is_not_asked_for_again(control: Control) -> None:
    """The user connects again between the refresher's look and its intent."""
    await control.connect()
    stale = await control.connection()
    await control.connect()
    calls, services = control.provider.count("/token"), control.services
    renewal = Renewal(
        database=services.database,
        vault=services.vault,
        providers=services.providers,
        clock=services.clock,
        pause=asyncio.sleep,
        backoffs=Backoffs(services.clock),
    )
    assert (await renewal.run(stale)).revision > stale.revision
    assert control.provider.count("/token") == calls
    assert (await control.connection()).refresh_generation is None
