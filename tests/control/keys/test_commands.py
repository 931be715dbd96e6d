"""``aura keys`` as an operator runs it; killed on the way, and beside processes that go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aura_control.db.exclusive import alone
from aura_control.db.repositories.sealed import CONNECTIONS
from tests.control.keys.beside import rotated_beside
from tests.control.keys.commands import Run, keys, killed, states
from tests.control.keys.sealed_world import PROVIDERS, SealedWorld

__all__ = ["keys"]

CONNECTED = 2 * len(PROVIDERS)


async def test_a_key_is_rotated_and_retired(world: SealedWorld, keys: Run) -> None:
    before = await world.everything()
    done = await keys("rotate")
    assert (done["active"], done["unreadable"]) == ("m2", {})
    assert done["rows"][CONNECTIONS] == CONNECTED
    assert (await keys("rotate"))["active"] == "m3"
    assert states(world) == {"m1": "decrypt_only", "m2": "decrypt_only", "m3": "active"}
    first, second, third = (await keys("status"))["keys"]
    assert (first["retirable"], second["retirable"], third["retirable"]) == (True, True, False)
    assert third["sealed"][CONNECTIONS] == CONNECTED
    assert 0 < third["uses"] < 1000
    assert third["kept"] == str(world.settings.keyring_path)
    # The first: tenants, their audit logs and all that they have began under it.
    assert await world.whole()
    done = await keys("retire", "m1")
    assert done["retired"] == "m1"
    assert "Destroy m1 in backups" in done["next"][0]
    assert (await keys("retire"))["retired"] == "m2"
    assert world.settings.keyring_path.read_text().startswith("m1:destroyed:\nm2:destroyed:\nm3:")
    refused = await keys("retire", "m3", exits=1)
    assert "active" in refused["title"]
    await world.vault.reload()
    assert await world.everything() == before
    assert await world.whole()
    shown = await keys("status", as_json=False)
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("m")] == [
        ["m1", "destroyed"],
        ["m2", "destroyed"],
        ["m3", "active"],
    ]


STEPS = [
    "aura_control.services.ring:RingFile.write after 1",
    "aura_control.db.repositories.sealed:Sealed.rewrap_connections after 1",
    "aura_control.services.rotation:Rotation._connections after 1",
    "aura_control.db.repositories.sealed:Sealed.rewrap_rows after 1",
    "aura_control.services.rotation:Rotation.rows after 2",
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.rsplit(".", 1)[-1])
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_rotation_that_was_killed_is_run_again(
    world: SealedWorld, keys: Run, step: str
) -> None:
    before = await world.everything()
    await asyncio.to_thread(killed, world, step, "rotate")
    await world.vault.reload()
    assert await world.everything() == before
    assert await world.whole()
    await keys("rotate")
    active = world.file.read().active
    assert active == "m2" or step == STEPS[-1]
    assert all(by.keys() == {active} for by in (await world.counts()).values())
    await world.vault.reload()
    assert await world.everything() == before
    assert await world.whole()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "step",
    ["aura_control.services.retirement:retire after 1"],
    ids=lambda step: step.rsplit(".", 1)[-1],
)
async def test_a_retirement_that_was_killed_is_run_again(
    world: SealedWorld, keys: Run, step: str
) -> None:
    await keys("rotate")
    await asyncio.to_thread(killed, world, step, "retire", "m1")
    assert states(world)["m1"] == "decrypt_only"
    await keys("retire", "m1")
    assert states(world)["m1"] == "destroyed"
    await world.vault.reload()
    assert await world.whole()


async def test_two_at_once_are_one_and_a_conflict(world: SealedWorld, keys: Run) -> None:
    ring = world.settings.keyring_path.read_bytes()
    async with alone(world.settings.database):
        for command in (["rotate"], ["retire", "m1"]):
            refused = await keys(*command, exits=1)
            assert "Another command is changing the keys" in refused["title"]
    assert world.settings.keyring_path.read_bytes() == ring


async def test_processes_go_on_while_keys_are_rotated_and_retired(
    world: SealedWorld, keys: Run
) -> None:
    await rotated_beside(world, keys, processes=2)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_keys_in_the_environment_are_handed_over(
    world: SealedWorld, keys: Run, tmp_path: Path
) -> None:
    ring, out = world.settings.keyring_path.read_text(), tmp_path / "new-ring"
    world.settings.keyring_path.unlink()
    old = {"AURA_MASTER_KEYS": ring}
    refused = await keys("rotate", exits=2, **old)
    assert "--out FILE" in refused["hint"]
    handed = await keys("rotate", "--out", str(out), exits=5, **old)
    assert str(out) in handed["next"][0]
    assert "aura keys rotate --resume" in handed["next"][1]
    assert out.stat().st_mode & 0o777 == 0o600
    assert (await world.counts())[CONNECTIONS] == {"m1": CONNECTED}
    assert "there already" in (await keys("rotate", "--out", str(out), exits=2, **old))["title"]
    new = {"AURA_MASTER_KEYS": out.read_text()}
    done = await keys("rotate", "--resume", **new)
    assert (done["active"], done["rows"][CONNECTIONS]) == ("m2", CONNECTED)
    first, second = (await keys("status", **new))["keys"]
    assert (first["retirable"], second["kept"]) == (True, "AURA_MASTER_KEYS")
    last = tmp_path / "last-ring"
    handed = await keys("retire", "--out", str(last), exits=5, **new)
    assert handed["retired"] == "m1"
    assert last.read_text().startswith("m1:destroyed:\n")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_prepared_key_is_known_everywhere_before_it_is_used(
    world: SealedWorld, keys: Run
) -> None:
    handed = await keys("rotate", "--prepare", exits=5)
    assert (handed["prepared"], states(world)) == ("m2", {"m1": "active", "m2": "decrypt_only"})
    assert "prepared already" in (await keys("rotate", "--prepare", exits=2))["title"]
    assert not any(one["retirable"] for one in (await keys("status"))["keys"])
    assert "No master key can be retired" in (await keys("retire", exits=2))["title"]
    assert (await keys("rotate"))["active"] == "m2"
    assert states(world) == {"m1": "decrypt_only", "m2": "active"}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_what_does_not_open_makes_the_command_fail(world: SealedWorld, keys: Run) -> None:
    (victim, *_) = await world.connections()
    await world.change(
        "UPDATE integrations SET access_token ="
        ' replace(access_token, \'"tag":"\', \'"tag":"AAAA\') WHERE id = :id',
        id=victim.id,
    )
    done = await keys("rotate", exits=1)
    assert done["unreadable"] == {CONNECTIONS: 1}
    assert done["rows"][CONNECTIONS] == CONNECTED - 1
    assert (await keys("rotate", "--resume", exits=1))["rows"] == {}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_the_doctor_warns_before_a_key_is_used_up(world: SealedWorld, keys: Run) -> None:
    await world.change("UPDATE tenant_keys SET uses = :uses", uses=2**29)
    findings = (await keys(group="doctor"))["findings"]
    (found,) = [one for one in findings if one["check"] == "master key"]
    assert (found["outcome"], found["hint"]) == ("warn", "Rotate it: aura keys rotate.")
