"""A stored credential that does not open, on every way that opens one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from aura_control.bootstrap import Owner
from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState
from aura_control.services.ring import RingFile
from aura_core.errors import ReauthorizationRequired, RefreshFailed
from aura_core.secret_stores import SecretStores
from tests.control.connections.conftest import Control, Running

Harm = Callable[[Control], Awaitable[None]]


async def change(control: Control, statement: str, **values: object) -> None:
    """What somebody with access to the database does behind Aura's back."""
    async with control.services.database.transaction() as tx:
        await tx.session.execute(text(statement), values)


async def stored(control: Control, owner: Owner | None = None) -> Any:
    connection = await control.connection(owner=owner)
    async with control.services.database.reading() as tx:
        rows = await tx.session.execute(
            text("SELECT * FROM integrations WHERE id = :id"), {"id": connection.id}
        )
        return rows.mappings().one()


async def damaged(control: Control) -> None:
    row = await stored(control)
    document = json.loads(row["access_token"])
    document["tag"] = "A" * 22
    await change(
        control,
        "UPDATE integrations SET access_token = :text WHERE id = :id",
        id=row["id"],
        text=json.dumps(document, separators=(",", ":")),
    )


async def garbage(control: Control) -> None:
    row = await stored(control)
    await change(
        control, "UPDATE integrations SET refresh_token = 'x' WHERE id = :id", id=row["id"]
    )


async def another_tenants(control: Control) -> None:
    mine, theirs = await stored(control), await stored(control, control.eve)
    await change(
        control,
        "UPDATE integrations SET access_token = :a, refresh_token = :r WHERE id = :id",
        id=mine["id"],
        a=theirs["access_token"],
        r=theirs["refresh_token"],
    )


async def old_revision(control: Control) -> None:
    before = await stored(control)
    control.clock.forward(seconds=5)
    await control.connect()
    await change(
        control,
        "UPDATE integrations SET access_token = :a, refresh_token = :r WHERE id = :id",
        id=before["id"],
        a=before["access_token"],
        r=before["refresh_token"],
    )


async def key_destroyed(control: Control) -> None:
    file = RingFile(control.services.settings.keyring_path, SecretStores(dict))
    # Two rotations, and everything but this one connection sealed again, as after a rescue.
    file.write(file.read().rotate())
    await control.services.vault.reload()
    await control.connect()
    file.write(file.read().rotate().destroy("m2"))
    await control.services.vault.reload()


HARMS: dict[str, tuple[Harm, str]] = {
    "damaged": (damaged, "damaged"),
    "garbage": (garbage, "damaged"),
    "another tenant's": (another_tenants, "damaged"),
    "old revision": (old_revision, "old_revision"),
    "key destroyed": (key_destroyed, "key_destroyed"),
}


async def audited(control: Control, action: str) -> list[dict[str, Any]]:
    async with control.services.database.reading() as tx:
        entries = await tx.audit.entries(tenant_id=control.ada.tenant_id, limit=500)
    return [dict(entry.metadata) for entry in entries if entry.action == action]


async def refresh(control: Control) -> None:
    control.clock.forward(hours=2)
    connection = await control.connection()
    with pytest.raises(ReauthorizationRequired):
        await control.services.refresher.refresh(
            tenant_id=connection.tenant_id, connection_id=connection.id
        )


async def validate(control: Control) -> None:
    async with control.client(control.ada) as caller:
        answer = await caller.post("/api/integrations/acme/validate")
    assert answer.status_code == 200
    assert answer.json()["valid"] is False
    assert answer.json()["reason"]


# What renews is opened by a refresh alone; a call gets along with the access token.
WAYS = [
    pytest.param(harm, kind, way, id=f"{name} {way.__name__}")
    for name, (harm, kind) in HARMS.items()
    for way in (refresh, validate)
    if way is refresh or harm is not garbage
]


@pytest.mark.parametrize(("harm", "kind", "way"), WAYS)
async def test_the_connection_waits_for_its_user_and_nothing_else_is_touched(
    running: Running, harm: Harm, kind: str, way: Callable[[Control], Awaitable[None]]
) -> None:
    async with running() as control:
        for owner in (control.ada, control.eve):
            await control.connect(owner=owner, account=owner.email)
        await harm(control)
        before, others = await stored(control), await stored(control, control.eve)
        control.provider.calls.clear()
        await way(control)
        assert control.provider.calls == []
        connection = await control.connection()
        assert connection.state is ConnectionState.REAUTH_REQUIRED
        assert connection.reason
        assert "credential for acme" in connection.reason
        assert connection.refresh_generation is None
        (entry,) = await audited(control, "connection.envelope_refused")
        assert entry == {"provider": "acme", "kind": kind, "at_revision": connection.revision}
        tokens = ("access_token", "refresh_token")
        after = await stored(control)
        assert [after[name] for name in tokens] == [before[name] for name in tokens]
        assert await stored(control, control.eve) == others
        assert (await control.connection(owner=control.eve)).state is ConnectionState.CONNECTED
        # Asking again changes nothing, and connecting again mends it.
        async with control.client(control.ada) as caller:
            await caller.post("/api/integrations/acme/validate")
        assert len(await audited(control, "connection.envelope_refused")) == 1
        control.clock.forward(seconds=5)
        assert (await control.connect()).status_code == 200
        assert (await control.connection()).state is ConnectionState.CONNECTED
        assert await control.secrets()


async def test_disconnecting_ends_it_and_says_that_it_could_not_be_revoked(
    running: Running,
) -> None:
    async with running() as control:
        await control.connect()
        await damaged(control)
        async with control.client(control.ada) as caller:
            answer = await caller.delete("/api/integrations/acme")
        assert answer.status_code == 200
        (line,) = answer.json()["tokens"]
        assert line["outcome"] == "failed"
        assert line["detail"].endswith("taken back in the account's settings at the provider.")
        assert (await control.connection()).state is ConnectionState.DISCONNECTED
        (entry,) = await audited(control, "connection.envelope_refused")
        assert entry["kind"] == "damaged"


async def lose_key(control: Control) -> Connection:
    """The key file of another installation, or an old copy: m1 is not in it."""
    vault = control.services.vault
    file = RingFile(control.services.settings.keyring_path, SecretStores(dict))
    kept = file.read()
    file.write(kept.rotate())
    await vault.reload()
    await control.connect()
    file.write(kept)
    await vault.reload()
    assert vault.keyring.active == "m1"
    return await control.connection()


async def test_a_missing_key_is_the_operators_and_marks_nobody(running: Running) -> None:
    async with running() as control:
        before = await lose_key(control)
        async with control.client(control.ada) as caller:
            for _ in range(3):
                answer = await caller.post("/api/integrations/acme/validate")
                assert answer.status_code == 503
                assert answer.json()["type"] == "urn:aura:problem:key-missing"
        control.clock.forward(minutes=59)
        with pytest.raises(RefreshFailed, match="cannot open the credential"):
            await control.services.refresher.refresh(
                tenant_id=before.tenant_id, connection_id=before.id
            )
        after = await control.connection()
        assert after.state is before.state is ConnectionState.CONNECTED
        assert after.refresh_generation is None
        assert after.sealed_as(before)
        (entry,) = await audited(control, "connection.envelope_refused")
        assert (entry["kind"], entry["key"]) == ("unknown_key", "m2")


async def test_connecting_again_does_not_overwrite_what_only_a_missing_key_keeps_shut(
    running: Running,
) -> None:
    async with running() as control:
        before = await lose_key(control)
        control.provider.gives_refresh_token = False
        control.clock.forward(seconds=5)
        answer = await control.connect()
        assert answer.status_code == 503
        assert (await control.connection()).sealed_as(before)
