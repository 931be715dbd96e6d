"""A tenant goes: access, tokens, machines, and then the salt, out of the files too."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import respx

from aura_control.bootstrap import load_vault, open_database
from aura_control.db.models import ConnectionState, Tenant
from aura_control.services.ring import RingFile
from aura_control.services.tenants import OPERATOR, TenantRemover, progress_of
from aura_core.errors import Conflict, EnvelopeError
from aura_core.secret_stores import SecretStores
from tests.control.machines.world import World

KEY = "key-that-must-not-open-again-4711"


@pytest.fixture
def provider() -> Any:
    with respx.mock(assert_all_called=False) as router:
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        yield router


async def ask(world: World) -> None:
    async with world.services.database.transaction() as tx:
        assert await tx.tenants.begin_deletion(world.owner.tenant_id, actor=OPERATOR)


async def tenant(world: World) -> Tenant:
    async with world.services.database.reading() as tx:
        return await tx.tenants.get(world.owner.tenant_id)


async def deleted(world: World) -> Tenant:
    """Looks as the background task does, until nothing is left."""
    remover = TenantRemover(world.services)
    async with asyncio.timeout(30):
        while (found := await tenant(world)).deleted_at is None:
            await remover.look()
            await world.services.revoker.drain()
            # Destroying a machine is a workflow: it is told about by events.
            for agent in await _agents(world):
                await world.until_kind(agent, "instance.destroyed")
    return found


async def _agents(world: World) -> list[str]:
    async with world.services.database.reading() as tx:
        rows = await tx.instances.of_tenant(world.owner.tenant_id)
    return [row.agent_id for row in rows]


async def salt_of(world: World) -> bytes:
    salt = (await tenant(world)).kdf_salt
    assert salt is not None
    return salt


def files_with(directory: Path, needle: bytes) -> list[str]:
    return [
        path.name
        for path in sorted(directory.rglob("*"))
        if path.is_file() and needle in path.read_bytes()
    ]


async def test_everything_of_a_tenant_ends(world: World, provider: respx.Router) -> None:
    agent, vm = await world.running()
    connection = await world.connect(key=KEY)
    await world.settled(agent["id"])
    salt = await salt_of(world)
    assert files_with(world.settings.data_dir, salt), "the search finds the salt while it is there"
    stranger = await world.other.get("/api/integrations")
    await ask(world)
    assert (await world.http.get("/api/agents")).status_code == 401, "access ends at once"
    gone = await deleted(world)
    assert gone.kdf_salt is None
    assert files_with(world.settings.data_dir, salt) == []
    assert world.compute.table == {}
    assert (await vm.heartbeat()).status_code == 403
    receipt = gone.receipt
    assert receipt is not None
    (line,) = receipt["connections"]
    assert line["provider"] == "notes"
    assert [token["outcome"] for token in line["tokens"]] == ["not_offered"]
    assert [machine["state"] for machine in line["machines"]] in (["wiped"], ["destroyed"])
    assert [machine["instance_id"] for machine in receipt["machines"]] == [vm.instance_id]
    assert receipt["shredded_at"]
    async with world.services.database.reading() as tx:
        kept = await tx.integrations.by_id(
            tenant_id=world.owner.tenant_id, connection_id=connection["id"]
        )
        assert kept.envelope().access_token is None
        assert await tx.users.by_email(world.owner.email) is None
        assert await progress_of(tx, gone)
    assert (await world.other.get("/api/integrations")).json() == stranger.json()
    with pytest.raises(EnvelopeError):
        async with world.services.database.transaction() as tx:
            await tx.audit.append(gone.id, action="x", actor="system", target="x")


async def test_an_old_copy_opens_nothing_once_its_salt_is_gone(
    world: World, provider: respx.Router, tmp_path: Path
) -> None:
    await world.connect(key=KEY)
    (row,) = (await world.http.get("/api/integrations")).json()["integrations"]
    async with world.services.database.reading() as tx:
        before = await tx.integrations.by_id(
            tenant_id=world.owner.tenant_id, connection_id=row["id"]
        )
        opened = await world.services.vault.open_envelope(tx, before, renewing=True)
        assert opened.secrets["api_key"].get_secret_value() == KEY
    await ask(world)
    await deleted(world)
    # A vault of another process, with the whole keyring: the ciphertext from before does not open.
    vault = load_vault(world.settings)
    async with world.services.database.reading() as tx:
        for held in (vault, world.services.vault):
            with pytest.raises(EnvelopeError, match="destroyed"):
                await held.open_envelope(tx, before, renewing=True)


async def test_a_copy_of_the_database_without_the_salt_is_unreadable(
    world: World, provider: respx.Router, tmp_path: Path
) -> None:
    """The ciphertexts are still in such a copy, and the keyring is at hand: it is the salt alone
    that makes the difference."""
    await world.connect(key=KEY)
    await world.services.database.erase("tenants")
    shutil.copy(world.settings.data_dir / "aura.db", tmp_path / "copy.db")
    copied = world.settings.model_copy(update={"database_url": None, "data_dir": tmp_path})
    shutil.copy(tmp_path / "copy.db", tmp_path / "aura.db")
    vault = load_vault(world.settings)
    database = open_database(copied, vault)
    try:
        async with database.reading() as tx:
            (found,) = await tx.integrations.list(
                tenant_id=world.owner.tenant_id, user_id=world.owner.user_id
            )
            envelope = await vault.open_envelope(tx, found, renewing=True)
            assert envelope.secrets["api_key"].get_secret_value() == KEY
        async with database.transaction() as tx:
            await tx.tenants.shred(world.owner.tenant_id, actor="system")
        async with database.reading() as tx:
            (found,) = await tx.integrations.list(
                tenant_id=world.owner.tenant_id, user_id=world.owner.user_id
            )
            with pytest.raises(EnvelopeError, match="destroyed"):
                await load_vault(world.settings).open_envelope(tx, found, renewing=True)
    finally:
        await database.close()


async def test_nobody_gets_a_token_for_a_tenant_that_goes(world: World) -> None:
    await ask(world)
    with pytest.raises(Conflict, match="being deleted"):
        async with world.services.database.transaction() as tx:
            await tx.tokens.issue(
                tenant_id=world.owner.tenant_id,
                user_id=world.owner.user_id,
                name="late",
                token_hash="0" * 64,
                expires_at=None,
                actor="system",
            )
    async with world.services.database.transaction() as tx:
        assert not await tx.tenants.begin_deletion(world.owner.tenant_id, actor=OPERATOR)


async def test_the_salt_stays_as_long_as_something_needs_it(
    world: World, provider: respx.Router
) -> None:
    """A machine whose compute does not answer: nothing is shredded that could still be named."""
    agent, _ = await world.running()
    world.compute.refuse_destroying = 3
    await ask(world)
    remover = TenantRemover(world.services)
    await remover.look()
    assert (await tenant(world)).kdf_salt is not None
    await world.until_kind(agent["id"], "instance.destroyed")
    gone = await deleted(world)
    assert gone.kdf_salt is None


async def test_tokens_wait_for_a_key_that_is_not_there_now(
    world: World, provider: respx.Router
) -> None:
    """A key file that is not mounted must not leave a whole tenant's tokens unrevoked."""
    vault = world.services.vault
    file = RingFile(world.services.settings.keyring_path, SecretStores(dict))
    before = file.read()
    after = before.rotate()
    file.write(after)
    await vault.reload()
    answer = await world.http.post("/api/integrations/notes", json={"api_key": KEY})
    assert answer.status_code == 201
    file.write(before)
    await vault.reload()
    await ask(world)
    await TenantRemover(world.services).look()
    async with world.services.database.reading() as tx:
        (connection,) = await tx.integrations.list(
            tenant_id=world.owner.tenant_id, user_id=world.owner.user_id
        )
    assert connection.state is ConnectionState.CONNECTED
    file.write(after)
    await vault.reload()
    assert (await deleted(world)).kdf_salt is None


async def test_a_death_after_the_shredding_is_made_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_table: str) -> bool:
        return False

    await ask(world)
    with monkeypatch.context() as patch:
        patch.setattr(world.services.database, "erase", dies)
        await TenantRemover(world.services).look()
    halfway = await tenant(world)
    assert (halfway.kdf_salt, halfway.deleted_at) == (None, None)
    assert (await deleted(world)).deleted_at is not None


async def test_who_reads_for_long_is_asked_for_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    async def refused(table: str) -> bool:
        tries.append(table)
        return False

    await ask(world)
    monkeypatch.setattr(world.services.database, "erase", refused)
    remover = TenantRemover(world.services)
    for _ in range(5):
        await remover.look()
    assert tries == ["tenants"]
    assert (await tenant(world)).deleted_at is None


async def test_a_tenant_that_fails_keeps_no_other_from_going(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = TenantRemover.advance

    async def breaks(remover: TenantRemover, tenant: Tenant) -> None:
        if tenant.id == "broken":
            raise RuntimeError("a row that nobody expected")
        await advance(remover, tenant)

    monkeypatch.setattr(TenantRemover, "advance", breaks)
    async with world.services.database.transaction() as tx:
        salt = os.urandom(32)
        await tx.tenants.create(tenant_id="broken", name="b", kdf_salt=salt, actor=OPERATOR)
        await tx.tenants.begin_deletion("broken", actor=OPERATOR)
    await ask(world)
    assert (await deleted(world)).kdf_salt is None
