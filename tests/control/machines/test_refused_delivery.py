"""A credential that does not open is delivered to nobody; everything else is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import respx
from sqlalchemy import text

from aura_control.db.models import ConnectionState
from aura_core.registry import Registry
from tests.control.machines.outbox import Outbox
from tests.control.machines.world import World

_HARM = text(
    "UPDATE integrations SET access_token ="
    ' replace(access_token, \'"tag":"\', \'"tag":"AAAA\') WHERE access_token IS NOT NULL'
)


@pytest.fixture
async def outbox(migrated: Path, registry: Registry, tmp_path: Path) -> AsyncIterator[Outbox]:
    (tmp_path / "outbox").mkdir()
    outbox = Outbox(migrated, tmp_path / "outbox")
    await outbox.open()
    yield outbox
    await outbox.close()


async def harm(outbox: Outbox) -> None:
    async with outbox.database.transaction() as tx:
        await tx.session.execute(_HARM)


async def refusals(outbox: Outbox) -> list[Any]:
    async with outbox.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=outbox.who["tenant_id"], limit=500)
    return [e.metadata["kind"] for e in entries if e.action == "connection.envelope_refused"]


@pytest.mark.parametrize("way", ["push", "pull"])
async def test_the_credential_is_refused_and_the_policy_arrives(outbox: Outbox, way: str) -> None:
    await outbox.connect("key-one")
    await harm(outbox)
    for _ in range(2):
        await (outbox.push([]) if way == "push" else outbox.pull(acknowledge=True))
    connection_id = await outbox.connection_id()
    assert "policy" in outbox.vm.held
    assert connection_id not in outbox.vm.held
    async with outbox.database.reading() as tx:
        connection = await outbox._connection(tx)
        assert connection is not None
        row = await tx.deliveries.get(
            **outbox.who, instance_id=outbox.instance_id, subject=connection.id
        )
    assert connection.state is ConnectionState.REAUTH_REQUIRED
    assert row is not None
    assert row.message is None
    if way == "pull":  # a push tells its lane, which notes it like any failure
        assert row.last_error == connection.reason
    assert await refusals(outbox) == ["damaged"]
    outbox.time.now = outbox.time.now.replace(hour=5)
    await outbox.connect("key-two")
    await outbox.push([])
    assert connection.id in outbox.vm.held


async def test_a_tool_is_not_run_with_it(world: World) -> None:
    with respx.mock(assert_all_called=False) as provider:
        provider.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        await world.connect()
        agent = await world.deploy(permissions={"scopes": ["notes:read"]})
        async with world.services.database.transaction() as tx:
            await tx.session.execute(_HARM)
        asked = provider.calls.call_count
        answer = await world.http.post(
            f"/api/agents/{agent['id']}/tools/notes_list", json={"arguments": {}}
        )
        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:aura:problem:reauthorization-required"
        assert provider.calls.call_count == asked
        (entry,) = await world.audited("connection.envelope_refused")
        assert entry["kind"] == "damaged"
