"""The keyring's file and those who read it while it changes."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from aura_control.bootstrap import load_vault
from aura_control.services.keys import Vault
from aura_control.services.ring import RingFile, read_secret, write_secret
from aura_control.settings import Settings, load_settings
from aura_core.crypto import Keyring, MasterKey
from aura_core.errors import ConfigurationError, KeyMissing, ProviderUnavailable
from aura_core.secret_stores import SecretStore, SecretStores
from tests.control.keys.sealed_world import SealedWorld, connect, make_keys


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(data_dir=tmp_path / "data")
    make_keys(settings)
    return settings


@pytest.fixture
def file(settings: Settings) -> RingFile:
    return RingFile(settings.keyring_path, SecretStores(dict))


class Store:
    """A secret store that may be out of reach."""

    scheme = "acme"

    def __init__(self) -> None:
        self.reached = True
        self.asked: list[str] = []

    def fetch(self, reference: str) -> bytes:
        self.asked.append(reference)
        if not self.reached:
            raise ProviderUnavailable("The store does not answer.")
        return (reference[-1] * 32).encode()

    def keep(self, place: str, *, name: str, material: bytes) -> str:
        raise ConfigurationError("Not here.")

    def check(self) -> None:
        return


def test_a_ring_is_written_whole_and_for_its_owner_only(file: RingFile) -> None:
    old = file.path.stat().st_ino
    ring = file.read().rotate()
    file.write(ring)
    assert file.read().dump() == ring.dump()
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.stat().st_ino != old  # renamed over: a reader has the one or the other
    assert sorted(path.name for path in file.path.parent.iterdir()) == [
        "master-keys",
        "signing-key",
    ]


def test_what_fails_on_the_way_leaves_the_ring_as_it_was(
    file: RingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.write(file.read().rotate())
    assert file.path.read_bytes() == before
    assert len([*file.path.parent.iterdir()]) == 2


def test_a_changed_file_is_read_once(file: RingFile) -> None:
    file.read()
    assert file.newer() is None
    RingFile(file.path, SecretStores(dict)).write(file.read().rotate())
    file.read()
    assert file.newer() is None
    RingFile(file.path, SecretStores(dict)).write(file.read().rotate())
    newer = file.newer()
    assert newer is not None
    assert newer.active == "m3"
    assert file.newer() is None


@pytest.mark.parametrize("harm", ["removed", "readable", "garbage", "binary"])
def test_a_file_that_cannot_be_used_does_not_take_the_known_keys(
    file: RingFile, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = file.read().rotate()
    if harm == "removed":
        file.path.unlink()
    else:
        content = {"readable": good.dump().encode(), "garbage": b"m1", "binary": b"\xff\xfe:::"}
        file.path.unlink()
        write_secret(file.path, content[harm])
        file.path.chmod(0o644 if harm == "readable" else 0o600)
    assert file.newer() is None
    assert file.newer() is None
    file.path.unlink(missing_ok=True)
    write_secret(file.path, good.dump().encode())
    newer = file.newer()
    assert newer is not None
    assert newer.active == "m2"


def test_a_store_is_asked_once_for_each_key(settings: Settings) -> None:
    store = Store()
    stores: dict[str, SecretStore] = {"acme": store}
    ring = Keyring(
        [MasterKey(kid="m1", material=b"1" * 32, state="active", reference="acme:kv#m1")]
    )
    RingFile(settings.keyring_path, SecretStores(dict)).write(ring)
    vault = load_vault(settings, lambda: stores)
    assert vault.keyring.dump() == ring.dump()
    writer = RingFile(settings.keyring_path, SecretStores(dict))
    two = MasterKey(kid="m2", material=b"2" * 32, state="decrypt_only", reference="acme:kv#m2")
    writer.write(ring.prepare(two))
    store.reached = False
    asyncio.run(vault.reload())
    assert vault.keyring.active == "m1"  # it goes on with what it knows
    assert len(vault.keyring.keys) == 1
    store.reached = True
    asyncio.run(vault.reload())
    assert vault.keyring.successor == "m2"
    assert store.asked == ["acme:kv#m1", "acme:kv#m2", "acme:kv#m2"]


async def test_a_look_that_was_cancelled_is_not_lost(settings: Settings) -> None:
    vault = load_vault(settings)
    held, go_on, real = threading.Event(), threading.Event(), RingFile.read

    def slow(self: RingFile) -> Keyring:
        ring = real(self)
        held.set()
        assert go_on.wait(20)
        return ring

    RingFile(settings.keyring_path, SecretStores(dict)).write(vault.keyring.rotate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RingFile, "read", slow)
        looking = asyncio.create_task(vault.reload())
        assert await asyncio.to_thread(held.wait, 20)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
    go_on.set()
    await vault.reload()
    assert vault.keyring.active == "m2"


async def test_those_who_miss_a_key_at_once_look_together(settings: Settings) -> None:
    vault = load_vault(settings)
    looks, began, go_on, real = [0], threading.Event(), threading.Event(), RingFile.newer

    def slow(self: RingFile) -> Keyring | None:
        looks[0] += 1
        began.set()
        assert go_on.wait(20)
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RingFile, "newer", slow)
        first = asyncio.create_task(vault.reload())
        assert await asyncio.to_thread(began.wait, 20)
        later = [asyncio.create_task(vault.reload()) for _ in range(50)]
        await asyncio.sleep(0)  # they ask now: what the first one read may be older
        RingFile(settings.keyring_path, SecretStores(dict)).write(vault.keyring.rotate())
        go_on.set()
        await asyncio.gather(first, *later)
    assert looks == [2]
    assert vault.keyring.active == "m2"


def test_keys_in_the_environment_may_be_references_too(settings: Settings) -> None:
    stores: dict[str, SecretStore] = {"acme": Store()}
    kept = load_settings(data_dir=settings.data_dir, master_keys="m1:active:acme:kv#m1")
    assert load_vault(kept, lambda: stores).keyring.active == "m1"
    with pytest.raises(ConfigurationError, match="not installed"):
        load_vault(kept)


def test_a_secret_is_read_only_where_nobody_else_can(tmp_path: Path) -> None:
    write_secret(tmp_path / "key", b"x")
    assert read_secret(tmp_path / "key", "AURA_KEY") == b"x"
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "key", b"y")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="read by others"):
        read_secret(tmp_path / "key", "AURA_KEY")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_secret(tmp_path / "none", "AURA_KEY")


async def test_a_process_meets_a_key_that_it_does_not_know_yet(world: SealedWorld) -> None:
    late = load_vault(world.settings)
    await world.rotated()
    async with world.database.transaction() as tx:
        made = await connect(tx, world.vault, world.owners[0], "new")
    assert late.keyring.active == "m1"
    async with world.database.reading() as tx:
        envelope = await late.open_envelope(tx, made)
    assert envelope.secrets
    assert late.keyring.active == "m2"


async def test_a_key_that_is_not_in_the_file_either_is_the_operators_problem(
    world: SealedWorld,
) -> None:
    await world.rotated()
    async with world.database.transaction() as tx:
        made = await connect(tx, world.vault, world.owners[0], "new")
    ring = Keyring([key for key in world.vault.keyring.keys if key.kid == "m2"])
    lost = Vault(Keyring.parse(ring.dump().replace("m2", "m1")), world.vault.signing)
    stored = made.envelope().access_token or ""
    async with world.database.reading() as tx:
        with pytest.raises(KeyMissing):
            await lost.open_field(
                tx, made.tenant_id, made.id, "access_token", made.revision, stored
            )


async def test_a_process_takes_up_a_changed_ring_by_itself(
    world: SealedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, reloaded, reload = load_vault(world.settings), asyncio.Event(), Vault.reload

    async def seen(self: Vault) -> None:
        await reload(self)
        if self.keyring.active == "m2":
            reloaded.set()

    monkeypatch.setattr(Vault, "reload", seen)
    watching = asyncio.create_task(vault.watch())
    world.change_ring(rotate=True)
    async with asyncio.timeout(20):
        await reloaded.wait()
    assert vault.keyring.active == "m2"
    vault.close()
    await watching
