"""Sealing everything again, while others go on sealing; interrupted, and again."""

from __future__ import annotations

import asyncio

import pytest

from aura_control.bootstrap import add_user, load_vault, open_database
from aura_control.db.connection import Connection
from aura_control.db.exclusive import alone
from aura_control.db.models import ConnectionState
from aura_control.db.repositories.sealed import CONNECTIONS, PLACES
from aura_control.services.retirement import key_status, needed, retire, unfinished
from aura_control.services.rotation import Rewrapped, Rotation
from aura_core.errors import ConfigurationError, Conflict
from tests.control.keys.sealed_world import PROVIDERS, SealedWorld, connect

TENANTS = 2
ROWS = {CONNECTIONS: len(PROVIDERS) * TENANTS} | {place.name: TENANTS for place in PLACES}
ROWS["revocations"] = 2 * TENANTS  # of two revisions of one connection


async def at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def rotation(world: SealedWorld, **options: object) -> Rotation:
    return Rotation(
        database=world.database,
        vault=world.vault,
        pause=at_once,
        batch=2,
        **options,  # type: ignore[arg-type]
    )


async def rewrap(world: SealedWorld) -> Rewrapped:
    return await rotation(world).rewrap()


def under(kid: str) -> dict[str, dict[str, int]]:
    return {place: {kid: rows} for place, rows in ROWS.items()}


async def test_everything_is_sealed_again_and_opens_as_before(world: SealedWorld) -> None:
    before, revisions = await world.everything(), await world.connections()
    assert await world.counts() == under("m1")
    assert await world.rotated() == "m2"
    told: dict[str, int] = {}
    found = await rotation(world, progress=told.__setitem__).rewrap()
    assert found == Rewrapped(rows=ROWS)
    assert {place: rows for place, rows in told.items() if rows} == ROWS
    assert await world.counts() == under("m2")
    assert await world.everything() == before
    after = await world.connections()
    assert [(c.revision, c.state) for c in after] == [(c.revision, c.state) for c in revisions]
    assert await world.whole()
    for owner in world.owners:
        entries = await world.audited(owner, "connection.rewrapped")
        assert sorted(str(entry["target"]) for entry in entries) == sorted(
            f"connection:{c.id}" for c in after if c.tenant_id == owner.tenant_id
        )
        assert {entry["kid"] for entry in entries} == {"m2"}
        rewrapped = await world.audited(owner, "keys.rewrapped")
        assert {entry["target"] for entry in rewrapped} == {p.name for p in PLACES}
    assert await rewrap(world) == Rewrapped(rows={})


async def test_an_interrupted_run_is_run_again(world: SealedWorld) -> None:
    before = await world.everything()
    await world.rotated()

    def interrupt(place: str, rows: int) -> None:
        if rows >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rotation(world, progress=interrupt).rewrap()
    assert (await world.counts())[CONNECTIONS] == {"m1": 4, "m2": 2}
    assert await unfinished(world.database, world.vault)
    assert await world.whole()
    assert (await rewrap(world)).rows == {**ROWS, CONNECTIONS: 4}
    assert not await unfinished(world.database, world.vault)
    assert await world.everything() == before


async def test_what_a_late_process_seals_meanwhile_is_found(world: SealedWorld) -> None:
    late = load_vault(world.settings)  # it never looks at the ring again
    await world.rotated()
    made: list[Connection] = []

    async def straggle(_seconds: float) -> None:
        if len(made) < 3:
            async with world.database.transaction() as tx:
                provider = f"late{len(made)}"
                made.append(await connect(tx, late, world.owners[0], provider))

    run = Rotation(
        database=world.database,
        vault=world.vault,
        batch=2,
        pause=straggle,
        progress=lambda place, rows: None,
    )
    if world.database.dialect != "sqlite":  # pauses are SQLite's
        for _ in range(3):
            await straggle(0)
    await run.rewrap()
    assert len(made) == 3
    assert await world.counts() == {**under("m2"), CONNECTIONS: {"m2": ROWS[CONNECTIONS] + 3}}


async def test_a_process_that_never_takes_up_the_new_key_is_told_of(world: SealedWorld) -> None:
    late = load_vault(world.settings)
    await world.rotated()
    number = iter(range(1000))
    base = world.database.transaction

    async def straggle(place: str) -> None:
        async with base() as tx:
            await connect(tx, late, world.owners[0], f"late{next(number)}")

    class Straggling(Rotation):
        async def rows(self, place: object, after: str, count: object) -> str | None:
            await straggle("")
            return await super().rows(place, after, count)  # type: ignore[arg-type]

    with pytest.raises(Conflict, match="go on being sealed under an older"):
        await Straggling(
            database=world.database, vault=world.vault, pause=at_once, batch=100
        ).rewrap()


async def test_what_does_not_open_is_told_and_keeps_nobody_else(world: SealedWorld) -> None:
    moved, victim, *_ = await world.connections()
    await world.change(
        "UPDATE integrations SET access_token ="
        " (SELECT access_token FROM integrations WHERE id = :other) WHERE id = :id",
        id=victim.id,
        other=moved.id,
    )
    await world.change(
        "UPDATE instances SET gateway_token = :text WHERE tenant_id = :tenant",
        text='{"v":1,"kid":"m1","iv":"AAAA"}',
        tenant=victim.tenant_id,
    )
    await world.rotated()
    found = await rewrap(world)
    assert found.unreadable == {CONNECTIONS: 1, "gateway_tokens": 1}
    assert found.rows == {**ROWS, CONNECTIONS: ROWS[CONNECTIONS] - 1, "gateway_tokens": 1}
    states = {c.id: c.state for c in await world.connections()}
    assert states.pop(victim.id) is ConnectionState.REAUTH_REQUIRED
    assert set(states.values()) == {ConnectionState.CONNECTED}
    (entry,) = await world.audited(world.owners[0], "connection.envelope_refused")
    assert (entry["kind"], entry["target"]) == ("damaged", f"connection:{victim.id}")
    # Neither keeps the old key from being retired, and a second run says the same.
    assert (await rewrap(world)).unreadable == found.unreadable
    assert not await unfinished(world.database, world.vault)
    await retire(world.database, world.vault, "m1")


async def test_a_key_is_retired_only_when_nothing_needs_it(world: SealedWorld) -> None:
    await world.rotated()
    with pytest.raises(Conflict, match="m1 still seals 6 connections, 2 gateway_tokens, 2 ver"):
        await retire(world.database, world.vault, "m1")
    with pytest.raises(Conflict, match="active"):
        await retire(world.database, world.vault, "m2")
    with pytest.raises(ConfigurationError, match="no master key m7"):
        await retire(world.database, world.vault, "m7")
    await rewrap(world)
    async with world.database.reading() as tx:
        first, second = await key_status(tx, world.vault, kept_in="the file")
    assert (first.kid, first.rows, first.retirable, first.kept) == ("m1", 0, True, "the file")
    assert (second.sealed, second.retirable) == (ROWS, False)
    for _ in range(2):  # the material is destroyed after it: dying in between must not matter
        await retire(world.database, world.vault, "m1")


async def test_the_key_that_all_began_under_is_destroyed(world: SealedWorld) -> None:
    """Also for a process that has not looked since, and then only writes an audit entry."""
    late = load_vault(world.settings)
    other = open_database(world.settings, late)
    before = await world.everything()
    assert await world.whole()
    await world.rotated()
    await rewrap(world)
    await retire(world.database, world.vault, "m1")
    world.change_ring("m1")
    await world.vault.reload()
    assert await world.everything() == before
    assert await world.whole()
    for owner in world.owners:
        async with other.transaction() as tx:
            await tx.audit.append(owner.tenant_id, action="x", actor="system", target="x")
    assert late.keyring.states == {"m1": "destroyed", "m2": "active"}
    await add_user(other, tenant_name="new", email="new@example.org")
    await other.close()
    assert await world.whole()
    assert await world.everything() == before


async def test_nothing_is_sealed_under_a_retired_key(world: SealedWorld) -> None:
    late = load_vault(world.settings)
    await world.rotated()
    await rewrap(world)
    await retire(world.database, world.vault, "m1")
    async with world.database.transaction() as tx:
        await connect(tx, late, world.owners[0], "late")
    assert late.keyring.active == "m2"
    assert (await world.counts())[CONNECTIONS] == {"m2": ROWS[CONNECTIONS] + 1}


async def test_a_process_with_a_ring_from_a_backup_cannot_seal(world: SealedWorld) -> None:
    old = world.file.read()
    await world.rotated()
    await rewrap(world)
    await retire(world.database, world.vault, "m1")
    world.file.write(old)
    stale = load_vault(world.settings)
    with pytest.raises(ConfigurationError, match="m1 is retired"):
        async with world.database.transaction() as tx:
            await connect(tx, stale, world.owners[0], "late")
    assert (await world.counts())[CONNECTIONS] == {"m2": ROWS[CONNECTIONS]}


async def test_retiring_waits_for_a_process_that_is_about_to_store(world: SealedWorld) -> None:
    await world.rotated()
    await rewrap(world)
    late = load_vault(world.settings)
    late._keyring = world.file.read().__class__.parse(
        "".join(
            f"{key.kid}:{'active' if key.kid == 'm1' else 'decrypt_only'}:{line.split(':')[2]}\n"
            for key, line in zip(
                world.vault.keyring.keys, world.vault.keyring.dump().splitlines(), strict=True
            )
        )
    )
    other = open_database(world.settings, world.vault)
    sealed, go_on = asyncio.Event(), asyncio.Event()

    async def store() -> None:
        async with world.database.transaction() as tx:
            await connect(tx, late, world.owners[0], "late")
            sealed.set()
            await go_on.wait()

    storing = asyncio.create_task(store())
    await sealed.wait()
    retiring = asyncio.create_task(retire(other, world.vault, "m1"))
    done, _ = await asyncio.wait([retiring], timeout=0.5)
    assert not done
    go_on.set()
    await storing
    with pytest.raises(Conflict, match="still seals 1 connections"):
        await retiring
    await other.close()


async def test_one_command_changes_the_keys_at_a_time(world: SealedWorld) -> None:
    url = world.settings.database
    async with alone(url):
        with pytest.raises(Conflict, match="Another command"):
            async with alone(url):
                raise AssertionError("both have it")
    async with alone(url):
        pass


async def test_a_shredded_tenant_is_left_alone(world: SealedWorld) -> None:
    ada, _ = world.owners
    async with world.database.transaction() as tx:
        await tx.tenants.shred(ada.tenant_id, actor="system")
    await world.rotated()
    found = await rewrap(world)
    assert found == Rewrapped(rows={place: rows // 2 for place, rows in ROWS.items()})
    async with world.database.transaction() as tx:
        assert not await needed(tx, world.vault, "m1")
    states = {c.tenant_id: c.state for c in await world.connections()}
    assert states[ada.tenant_id] is ConnectionState.CONNECTED
