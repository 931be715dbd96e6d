"""Who waits for whom: other processes, providers that are slow or ask for a pause, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from aura_control.clients.locks import FileLocks
from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState
from aura_control.db.repositories.refreshes import Refreshes
from aura_control.ports import LockTaken
from aura_control.services import refresh as refreshing
from aura_control.services.refresh import fresh_envelope
from aura_core.errors import ProviderError, ReauthorizationRequired, RefreshFailed
from tests.control.connections.conftest import Control, Running
from tests.control.connections.provider import Gate, answer_lost, answers
from tests.control.connections.test_refresh import fresh, refresh
from tests.control.connections.test_refreshers import WatchedLocks, second_refresher
from tests.control.connections.test_sweep import sweeper_of


async def actions(control: Control) -> list[str]:
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id, limit=100)
    return [entry.action for entry in entries]


async def test_a_failure_makes_every_process_wait(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    control.provider.faults.append(answers(503))
    with pytest.raises(RefreshFailed):
        await refresh(control)
    found = await control.connection()
    assert second_refresher(control).waits(found)
    assert found.renew_at is not None
    assert timedelta(0) < found.renew_at - control.clock.now <= timedelta(seconds=5)
    calls = control.provider.count("/token")
    await sweeper_of(control).sweep()
    assert control.provider.count("/token") == calls
    control.clock.forward(seconds=6)
    await sweeper_of(control).sweep()
    assert control.provider.count("/token") == calls + 1


async def test_each_failure_doubles_the_wait_up_to_five_minutes(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    for longest in (5, 10, 20, 40, 80, 160, 300, 300):
        control.provider.faults.append(answers(500))
        with pytest.raises(RefreshFailed):
            await refresh(control)
        found = await control.connection()
        assert found.renew_at is not None
        waits = (found.renew_at - control.clock.now).total_seconds()
        assert longest / 2 <= waits <= longest
        control.clock.forward(seconds=waits)


async def test_a_provider_that_asks_for_a_pause_gets_it_from_all_connections(
    control: Control,
) -> None:
    await control.connect()
    await control.connect(owner=control.eve, account="eve@example.org")
    control.clock.forward(minutes=59)

    async def slow_down(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"retry-after": "40"}, json={})

    control.provider.faults.append(slow_down)
    with pytest.raises(RefreshFailed):
        await refresh(control)
    assert control.services.refresher.paused() == {"acme"}
    calls = control.provider.count("/token")
    await sweeper_of(control).sweep()
    assert control.provider.count("/token") == calls
    control.clock.forward(seconds=41)
    await sweeper_of(control).sweep()
    assert control.provider.count("/token") == calls + 2


async def test_an_access_that_cannot_be_renewed_is_said_once(control: Control) -> None:
    control.provider.gives_refresh_token = False
    await control.connect()
    control.clock.forward(minutes=57)
    for _ in range(3):
        await sweeper_of(control).sweep()
    assert (await control.connection()).state is ConnectionState.EXPIRING
    assert (await actions(control)).count("connection.expiring") == 1
    assert (await actions(control)).count("connection.refresh_started") == 1
    control.clock.forward(minutes=4)
    await sweeper_of(control).sweep()
    assert (await control.connection()).state is ConnectionState.REAUTH_REQUIRED


async def test_the_sweep_leaves_alone_what_another_process_is_at(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    gate = Gate()
    control.provider.faults.append(gate.fault)
    connection = await control.connection()
    where: dict[str, Any] = {
        "tenant_id": connection.tenant_id,
        "connection_id": connection.id,
    }
    other = asyncio.create_task(second_refresher(control).refresh(**where))
    await gate.reached.wait()
    assert (await control.connection()).refresh_generation == connection.revision
    async with asyncio.timeout(10):
        await sweeper_of(control).sweep()
        await sweeper_of(control).finish_interrupted()
    with pytest.raises(LockTaken):
        await control.services.refresher.refresh(**where, early=True)
    # Somebody who needs the token joins the sweep's look, and then waits.
    asking = asyncio.create_task(control.services.refresher.refresh(**where, early=True))
    needing = asyncio.create_task(control.services.refresher.refresh(**where))
    with pytest.raises(LockTaken):
        await asking
    gate.opened.set()
    assert (await needing).revision == (await other).revision
    assert control.provider.count("/token") == 2


async def test_the_sweep_does_not_wait_with_those_who_need_the_token(control: Control) -> None:
    """A process that was stopped holds its locks for long: who needs the token waits for it, and
    would take the sweep's places with them if the sweep joined."""
    await control.connect()
    control.clock.forward(minutes=59)
    gate = Gate()
    control.provider.faults.append(gate.fault)
    connection = await control.connection()
    where: dict[str, Any] = {
        "tenant_id": connection.tenant_id,
        "connection_id": connection.id,
    }
    other = asyncio.create_task(second_refresher(control).refresh(**where))
    await gate.reached.wait()
    locks = WatchedLocks(control.services.settings.data_dir / "locks")
    refresher = second_refresher(control, locks)
    needing = asyncio.create_task(refresher.refresh(**where))
    await locks.waiting.wait()
    async with asyncio.timeout(10):
        with pytest.raises(LockTaken):
            await refresher.refresh(**where, early=True)
    gate.opened.set()
    assert (await needing).revision == (await other).revision
    assert control.provider.count("/token") == 2


async def test_a_provider_that_hangs_keeps_nobody_else_from_being_renewed(
    control: Control,
) -> None:
    await control.connect()
    await control.connect(owner=control.eve, account="eve@example.org")
    control.clock.forward(minutes=59)
    gate, other, later = Gate(), Gate(), Gate()
    other.opened.set()
    later.opened.set()
    control.provider.faults.extend([gate.fault, other.fault])
    sweeper = sweeper_of(control)
    running = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(10):
        await gate.reached.wait()
        await other.reached.wait()
    await control.connect("brittle")  # due after the first look, while that one still hangs
    control.clock.forward(minutes=59)
    control.provider.faults.append(later.fault)
    sweeper._woken.set()
    async with asyncio.timeout(10):
        await later.reached.wait()
    gate.opened.set()
    sweeper.close()
    await running


async def test_while_the_token_lives_nobody_waits_long_for_another_process(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "_PATIENCE", 0.2)
    await control.connect()
    before = await control.secrets()
    control.clock.forward(minutes=59)
    connection = await control.connection()
    locks = FileLocks(control.services.settings.data_dir / "locks")
    async with locks.hold(f"connection-{connection.id}"), asyncio.timeout(10):
        envelope = await fresh_envelope(control.services, connection.tenant_id, connection)
    assert envelope.access_token is not None
    assert envelope.access_token.get_secret_value() == before["access_token"]
    assert control.provider.count("/token") == 1


class BusyLocks:
    """Another process holds everything."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def hold(self, name: str, *, wait: float | None = None) -> AsyncIterator[None]:
        self.asked.set()
        await asyncio.Event().wait()
        yield


async def test_the_end_does_not_wait_for_another_process(running: Running) -> None:
    async with running() as control:
        await control.connect()
        control.clock.forward(minutes=61)
        locks = control.services.refresher._locks = BusyLocks()
        asking = asyncio.create_task(fresh(control))
        async with asyncio.timeout(10):
            await locks.asked.wait()
            await control.services.refresher.drain()
            with pytest.raises(RefreshFailed, match="shutting down"):
                await asking


async def test_new_tokens_outlive_a_database_that_fails_for_a_while(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.connect("brittle")
    control.clock.forward(minutes=59)
    real, failures = Refreshes.apply_refresh, [3]

    async def failing(self: Refreshes, **values: object) -> Connection | None:
        if failures[0]:
            failures[0] -= 1
            raise OperationalError("UPDATE", {}, OSError("the server is restarting"))
        return await real(self, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(Refreshes, "apply_refresh", failing)
    await refresh(control, "brittle")
    assert failures == [0]
    assert (await control.connection("brittle")).state is ConnectionState.CONNECTED
    assert all(map(control.provider.knows, (await control.secrets("brittle")).values()))


async def test_a_plugin_that_breaks_is_no_endless_loop(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    adapter = control.services.providers.open("acme").adapter

    async def broken(*_: object) -> None:
        raise KeyError("token")

    monkeypatch.setattr(type(adapter), "refresh_token", broken)
    with pytest.raises(RefreshFailed) as failed:
        await refresh(control)
    assert isinstance(failed.value.__cause__, ProviderError)
    found = await control.connection()
    assert found.state is ConnectionState.UNCERTAIN, "it may have broken after its call"
    assert "KeyError" in str(found.reason)
    assert control.services.refresher.waits(found)


async def test_uncertain_ends_in_one_of_two_ways(control: Control) -> None:
    for taken_back, state in (
        (False, ConnectionState.CONNECTED),
        (True, ConnectionState.REAUTH_REQUIRED),
    ):
        await control.connect()
        control.clock.forward(minutes=59)
        control.provider.faults.extend(answer_lost(control.provider) for _ in range(4))
        with pytest.raises(RefreshFailed):
            await refresh(control)
        assert (await control.connection()).state is ConnectionState.UNCERTAIN
        control.clock.forward(seconds=10)
        if taken_back:
            control.provider.forget_grants()
            with pytest.raises(ReauthorizationRequired):
                await refresh(control)
        else:
            await refresh(control)
        assert (await control.connection()).state is state


async def test_a_call_past_its_deadline_is_a_lost_answer(control: Control) -> None:
    """The provider was reached and said nothing: with a token that works once, that is the end."""
    await control.connect("brittle")
    control.clock.forward(minutes=59)

    async def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    control.provider.faults.append(silent)
    with pytest.raises(ReauthorizationRequired, match="lost"):
        await refresh(control, "brittle")
