"""Disconnecting beside renewals, reconnects, other disconnects, dead providers and restarts."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text, update

from aura_control.bootstrap import ensure_keys, load_vault, open_database
from aura_control.clients.locks import FileLocks, PostgresLocks
from aura_control.db.connection import Connection
from aura_control.db.engine import open_engine
from aura_control.db.models import ConnectionState, DeliveryOp, Instance, InstanceState
from aura_control.db.schema import migrate
from aura_control.services.refresh import Refresher, fresh_envelope
from aura_control.settings import Settings, load_settings
from aura_core.errors import Conflict
from tests.control.connections.conftest import Control, Running
from tests.control.connections.provider import Gate, Provider
from tests.control.connections.test_integrations import machine
from tests.postgres import Postgres, running_postgres

PATH = "/api/integrations/acme"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        server.run("CREATE DATABASE aura")
        asyncio.run(migrate(server.url("aura")))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """A database server's database, or none: the file in the data directory."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(template="aura")


@pytest.fixture
async def settings(tmp_path: Path, database_template: Path, database_url: str | None) -> Settings:
    settings = load_settings(data_dir=tmp_path / "data", database_url=database_url)
    await ensure_keys(settings.model_copy(update={"database_url": None}))
    if database_url is None:
        shutil.copy(database_template, settings.data_dir / "aura.db")
    return settings


only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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
            engine = open_engine(settings.database)
            stack.push_async_callback(engine.dispose)
            locks = PostgresLocks(engine)
        yield Refresher(
            database=database,
            vault=vault,
            providers=services.providers,
            locks=locks,
            clock=control.clock,
            refreshed=lambda connection: None,
        )


async def pending(control: Control) -> int:
    async with control.services.database.reading() as tx:
        return len(await tx.revocations.of_tenant(control.ada.tenant_id))


async def revoked(control: Control, connection: Connection) -> None:
    """Makes what is due, and waits for it."""
    await control.services.revoker.attempt(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )


async def receipt(control: Control) -> dict[str, Any]:
    (line,) = await control.listed()
    found: Any = line["receipt"]
    return dict(found)


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


@only_sqlite
async def test_what_would_end_the_new_grant_is_left_alone(control: Control) -> None:
    await control.connect("cascading")
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete("/api/integrations/cascading")
    assert await pending(control) == 1
    await control.connect("cascading")
    control.provider.revocable = True
    asked = control.provider.count("/revoke")
    control.clock.forward(hours=1)
    await revoked(control, await control.connection("cascading"))
    assert control.provider.count("/revoke") == asked
    assert await pending(control) == 0
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id, limit=5)
    (told,) = [entry for entry in entries if entry.action == "connection.revoked"]
    assert "connected again" in told.metadata["tokens"]["refresh_token"]["detail"]


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


async def test_a_provider_that_is_away_is_asked_again_after_a_restart(running: Running) -> None:
    async with running() as control:
        await control.connect()
        tokens = (await control.secrets()).values()
        control.provider.revocable = False
        async with control.client(control.ada) as caller:
            first = (await caller.delete(PATH)).json()
            again = (await caller.delete(PATH)).json()
        assert {line["outcome"] for line in first["tokens"]} == {"failed"}
        assert all(line["retry_at"] and "503" in line["detail"] for line in first["tokens"])
        assert (first["complete"], again) == (False, first)
        assert control.provider.count("/revoke") == 2
        assert (await control.connection()).envelope().refresh_token is None
        assert any(control.provider.knows(token) for token in tokens)
    control.provider.revocable = True
    control.clock.forward(minutes=1)
    async with running() as control:
        await revoked(control, await control.connection())
        done = await receipt(control)
        assert {line["outcome"] for line in done["tokens"]} == {"revoked"}
        assert done["complete"]
        assert not any(control.provider.knows(token) for token in tokens)
        assert await pending(control) == 0
        async with control.services.database.reading() as tx:
            assert (await tx.audit.verify(control.ada.tenant_id)).state == "whole"


@only_sqlite
async def test_a_crash_before_the_provider_was_asked_is_made_good(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_arguments: object, **_names: object) -> None:
        return None

    async with running() as control:
        await control.connect()
        revoker = control.services.revoker
        with monkeypatch.context() as patch:
            # What a process that dies right after the commit leaves behind: no attempt.
            patch.setattr(revoker, "attempt", killed)
            patch.setattr(revoker, "wake", lambda: None)
            async with control.client(control.ada) as caller:
                left = (await caller.delete(PATH)).json()
        assert {line["outcome"] for line in left["tokens"]} == {"pending"}
        assert control.provider.count("/revoke") == 0
        assert control.provider.alive == 2
    asked = Gate()
    asked.opened.set()
    control.provider.faults.append(asked.fault)
    async with running() as control:
        await asyncio.wait_for(asked.reached.wait(), 20)
        await control.services.revoker.drain()
        assert control.provider.alive == 0
        assert (await receipt(control))["complete"]


@only_sqlite
async def test_a_provider_that_stays_away_is_given_up_after_a_day(control: Control) -> None:
    await control.connect()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    connection = await control.connection()
    for _ in range(3):
        control.clock.forward(hours=9)
        await revoked(control, connection)
    assert await pending(control) == 0
    done = await receipt(control)
    assert done["complete"]
    for line in done["tokens"]:
        assert (line["outcome"], line["retry_at"]) == ("failed", None)
        assert "by hand" in line["detail"]


@only_sqlite
async def test_nothing_of_it_opens_as_a_credential(control: Control) -> None:
    """What waits to be revoked is bound to that: put back as tokens, it does not open."""
    await control.connect()
    connection = await control.connection()
    secrets = await control.secrets()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    async with control.services.database.reading() as tx:
        (row,) = await tx.revocations.of_tenant(control.ada.tenant_id)
        for secret in secrets.values():
            assert secret not in row.sealed
        opened = await control.services.vault.open_field(
            tx, row.tenant_id, connection.id, "revocation", row.revision, row.sealed
        )
        assert all(secret in opened for secret in secrets.values())
        for column in ("access_token", "refresh_token"):
            with pytest.raises(Exception, match="does not open"):
                await control.services.vault.open_field(
                    tx, row.tenant_id, connection.id, column, row.revision, row.sealed
                )


@only_sqlite
async def test_a_connection_that_does_not_open_ends_and_says_so(control: Control) -> None:
    await control.connect()
    async with control.services.database.transaction() as tx:
        await tx.session.execute(text("UPDATE integrations SET access_token = 'damaged'"))
    async with control.client(control.ada) as caller:
        told = (await caller.delete(PATH)).json()
    (line,) = told["tokens"]
    assert line["outcome"] == "failed"
    assert "taken back in the account" in line["detail"]
    assert control.provider.count("/revoke") == 0
    assert (await control.connection()).state is ConnectionState.DISCONNECTED


WIPES = [
    ({"state": InstanceState.DESTROYED}, "destroyed", True),
    ({"state": InstanceState.DESTROYING, "external_id": "x"}, "pending", False),
    ({"state": InstanceState.FAILED, "external_id": "x"}, "failed", False),
    ({"state": InstanceState.FAILED}, "destroyed", True),
    ({"state": InstanceState.SUSPENDED}, "pending", False),
    ({"state": InstanceState.RUNNING}, "pending", False),
    ({"state": InstanceState.RUNNING, "quarantined_reason": "two sets of keys"}, "pending", False),
    ({"state": InstanceState.ENROLLING, "join_used_at": None}, "never_held", True),
]


@only_sqlite
@pytest.mark.parametrize(("values", "state", "complete"), WIPES, ids=range(len(WIPES)))
async def test_each_machine_is_accounted_for(
    control: Control, values: dict[str, Any], state: str, complete: bool
) -> None:
    instance = await machine(control)
    await control.connect()
    connection = await control.connection()
    names = {
        "tenant_id": connection.tenant_id,
        "instance_id": instance.id,
        "subject": connection.id,
    }
    async with control.services.database.transaction() as tx:
        row = await tx.deliveries.get(**names)
        assert row is not None
        # The machine said that it holds the credential: that is no wipe.
        await tx.deliveries.store_message(
            **names, revision=row.desired_revision, message=b"sealed", digest="d"
        )
        await tx.deliveries.acked(**names, revision=row.desired_revision, digest="d")
        await tx.session.execute(update(Instance).values(**values, updated_at=tx.now))
    async with control.client(control.ada) as caller:
        told = (await caller.delete(PATH)).json()
    (line,) = told["machines"]
    assert (line["state"], told["complete"]) == (state, complete)
    assert (line["at"] is not None) == (state == "destroyed")
    assert line["acked_at"] is None
    assert line["detail"]
    if values["state"] is InstanceState.FAILED:
        async with control.services.database.reading() as tx:
            wanted = await tx.deliveries.get(**names)
        assert wanted is not None
        assert wanted.op is DeliveryOp.DELETE  # should it ever come back
