"""What a receipt says of machines and of what does not open."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text, update

from aura_control.db.models import ConnectionState, DeliveryOp, Instance, InstanceState
from tests.control.connections.conftest import Control
from tests.control.connections.ending.looking import PATH, only_sqlite
from tests.control.connections.test_integrations import machine


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
