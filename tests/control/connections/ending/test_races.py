"""Disconnecting beside renewals, reconnects and other disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from aura_control.bootstrap import load_vault, open_database
from aura_control.clients.locks import FileLocks
from aura_control.clients.session_locks import PostgresLocks
from aura_control.db.models import ConnectionState, DeliveryOp
from aura_control.services.refresh import Refresher, fresh_envelope
from aura_core.errors import Conflict
from tests.control.connections.conftest import Control
from tests.control.connections.ending.looking import PATH, only_sqlite, pending, receipt, revoked
from tests.control.connections.provider import Gate, Provider
from tests.control.connections.test_integrations import machine


@dataclass
class Held(Gate):
    """Holds a request to one path back: before the provider acts on it, or its answer after."""

    provider: Provider = field(kw_only=True)
    path: str = field(kw_only=True)
    acts_first: bool = field(kw_only=True)

    async def fault(self, request: httpx.Request) -> httpx.Response | None:
        if request.url.path != self.path:
            self.provider.faults.appendleft(self.fault)
            return None
        answer = None
        if self.acts_first:
            reply = await httpx.ASGITransport(self.provider._app).handle_async_request(request)
            content = await reply.aread()
            answer = httpx.Response(reply.status_code, headers=reply.headers, content=content)
        self.reached.set()
        await self.opened.wait()
        return answer


@asynccontextmanager
async def another_process(control: Control) -> AsyncIterator[Refresher]:
    """A refresher that shares nothing with the control plane but database, keys and locks."""
    settings, services = control.services.settings, control.services
    async with AsyncExitStack() as stack:
        vault = load_vault(settings)
        database = open_database(settings, vault)
        stack.push_async_callback(database.close)
        locks: Any = FileLocks(settings.data_dir / "locks")
        if database.dialect == "postgresql":
            locks = PostgresLocks(settings.database)
            stack.push_async_callback(locks.aclose)
        yield Refresher(
            database=database,
            vault=vault,
            providers=services.providers,
            locks=locks,
            clock=control.clock,
            refreshed=lambda connection: None,
        )


@pytest.mark.parametrize("acts_first", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_renewal_that_comes_back_late_resurrects_nothing(
    control: Control, acts_first: bool, where: str
) -> None:
    instance = await machine(control)
    await control.connect()
    connection = await control.connection()
    control.clock.forward(minutes=59)
    gate = Held(provider=control.provider, path="/token", acts_first=acts_first)
    control.provider.faults.append(gate.fault)
    async with AsyncExitStack() as stack:
        refresher = control.services.refresher
        if where == "elsewhere":
            refresher = await stack.enter_async_context(another_process(control))
        renewing = asyncio.create_task(
            refresher.refresh(tenant_id=connection.tenant_id, connection_id=connection.id)
        )
        await gate.reached.wait()
        async with control.client(control.ada) as caller:
            answer = await caller.delete(PATH)  # it waits for nobody
        assert answer.status_code == 200
        assert {line["outcome"] for line in answer.json()["tokens"]} == {"revoked"}
        gate.opened.set()
        renewed = await renewing
    assert renewed.state is ConnectionState.DISCONNECTED
    await revoked(control, connection)
    ended = await control.connection()
    assert ended.state is ConnectionState.DISCONNECTED
    assert ended.envelope().access_token is None
    assert ended.envelope().refresh_token is None
    assert ended.refresh_generation is None
    assert control.provider.alive == 0
    assert await pending(control) == 0
    lines = (await receipt(control))["tokens"]
    assert len(lines) == (4 if acts_first else 2)
    assert {line["outcome"] for line in lines} == {"revoked"}
    async with control.services.database.reading() as tx:
        row = await tx.deliveries.get(
            tenant_id=connection.tenant_id, instance_id=instance.id, subject=connection.id
        )
    assert row is not None
    assert row.op is DeliveryOp.DELETE
    with pytest.raises(Conflict):
        await fresh_envelope(control.services, connection.tenant_id, connection)


async def test_a_renewal_that_comes_back_after_a_reconnect_is_revoked_too(control: Control) -> None:
    await control.connect()
    connection = await control.connection()
    control.clock.forward(minutes=59)
    gate = Held(provider=control.provider, path="/token", acts_first=True)
    control.provider.faults.append(gate.fault)
    renewing = asyncio.create_task(
        control.services.refresher.refresh(
            tenant_id=connection.tenant_id, connection_id=connection.id
        )
    )
    await gate.reached.wait()
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    await control.connect()
    secrets = await control.secrets()
    gate.opened.set()
    await renewing
    await revoked(control, connection)
    assert await control.secrets() == secrets
    assert all(control.provider.knows(token) for token in secrets.values())
    assert control.provider.alive == len(secrets)


@pytest.mark.parametrize("acts_first", [False, True], ids=["before", "after"])
async def test_connecting_again_during_the_revocation_keeps_the_new_tokens(
    control: Control, acts_first: bool
) -> None:
    await control.connect()
    old = await control.secrets()
    gate = Held(provider=control.provider, path="/revoke", acts_first=acts_first)
    control.provider.faults.append(gate.fault)
    async with control.client(control.ada) as caller:
        ending = asyncio.create_task(caller.delete(PATH))
        await gate.reached.wait()
        await control.connect()
        gate.opened.set()
        answer = await ending
    assert answer.status_code == 409
    assert "connected again" in answer.json()["detail"]
    new = await control.secrets()
    assert (await control.connection()).state is ConnectionState.CONNECTED
    assert all(control.provider.knows(token) for token in new.values())
    assert not any(control.provider.knows(token) for token in old.values())
    assert await pending(control) == 0


async def test_two_disconnects_at_once_are_one(control: Control) -> None:
    await control.connect()
    async with control.client(control.ada) as caller:
        answers = await asyncio.gather(*(caller.delete(PATH) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert control.provider.count("/revoke") == 2
    assert all(answer.json() == answers[0].json() for answer in answers)
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id)
    assert [entry.action for entry in entries].count("connection.disconnected") == 1


@only_sqlite
async def test_what_is_not_connected_yet_cannot_be_disconnected(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get(PATH)
        assert (await browser.delete(PATH)).status_code == 404
        back = control.provider.consent(left.headers["location"])
        await browser.get(f"{PATH}/callback", params=back)
    assert (await control.connection()).state is ConnectionState.CONNECTED


async def test_who_looked_before_it_ended_gets_no_credential(control: Control) -> None:
    """A tool's call that has read the connection, and asks for its token a moment later."""
    await control.connect()
    seen = await control.connection()
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    with pytest.raises(Conflict, match="is disconnected"):
        await fresh_envelope(control.services, seen.tenant_id, seen)
