"""``aura keys`` as an operator runs it; killed on the way, and beside processes that go on."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aura_control.cli import main
from aura_control.db.exclusive import alone
from aura_control.db.repositories.sealed import CONNECTIONS
from tests.control.keys.sealed_world import PROVIDERS, SealedWorld
from tests.e2e.programs import own_environment

CONNECTED = 2 * len(PROVIDERS)

STORE = '''
import base64, json, os
from pathlib import Path
from aura_core.errors import ConfigurationError
from aura_core.hookspecs import hookimpl

class Store:
    """Keeps keys in a file, which stands for a vault."""
    scheme = "acme"

    def __init__(self, path):
        self.path = Path(path)

    def _read(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def fetch(self, reference):
        found = self._read().get(reference)
        if found is None:
            raise ConfigurationError("acme has no such key.")
        return base64.b64decode(found)

    def keep(self, place, *, name, material):
        reference = f"{place}#{name}"
        kept = {**self._read(), reference: base64.b64encode(material).decode()}
        self.path.write_text(json.dumps(kept))
        return reference

    def check(self):
        if not self.path.parent.exists():
            raise ConfigurationError("acme is not reached.", hint="Mount it.")

@hookimpl
def aura_secret_stores(context):
    return [Store(context.settings["AURA_ACME_FILE"])]
'''


Run = Callable[..., Awaitable[Any]]


def environment(world: SealedWorld, **more: str) -> dict[str, str]:
    return {
        "AURA_DATA_DIR": str(world.settings.data_dir),
        "AURA_DATABASE_URL": world.settings.database,
        **more,
    }


@pytest.fixture
def keys(
    world: SealedWorld, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs ``aura keys`` in a thread of this process; what it answers."""

    async def run(
        *arguments: str, exits: int = 0, as_json: bool = True, group: str = "keys", **more: str
    ) -> Any:
        command = [group, *arguments, *(["--json"] if as_json else [])]
        with monkeypatch.context() as patch:
            for name, value in environment(world, **more).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["aura", *command])
            code = await asyncio.to_thread(_exit_code)
        said = capfd.readouterr()
        assert code == exits, (said.out, said.err)
        return json.loads(said.out) if as_json else said.out

    return run


def _exit_code() -> int:
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def states(world: SealedWorld) -> dict[str, str]:
    return {kid: str(state) for kid, state in world.file.read().states.items()}


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
    # The second: what is derived under the first is the audit log's affair.
    done = await keys("retire", "m2")
    assert done["retired"] == "m2"
    assert "Destroy m2 in backups" in done["next"][0]
    assert "m2:destroyed:\n" in world.settings.keyring_path.read_text()
    refused = await keys("retire", "m3", exits=1)
    assert "active" in refused["title"]
    await world.vault.reload()
    assert await world.everything() == before
    assert await world.whole()
    shown = await keys("status", as_json=False)
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("m")] == [
        ["m1", "decrypt_only"],
        ["m2", "destroyed"],
        ["m3", "active"],
    ]


def killed(world: SealedWorld, step: str, *arguments: str) -> None:
    """Runs ``aura keys`` as a process that kills itself at the step."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.control.keys.dying", *step.split(), "keys", *arguments],
        env=own_environment(**environment(world)),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


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
    await keys("rotate")
    await asyncio.to_thread(killed, world, step, "retire", "m2")
    assert states(world)["m2"] == "decrypt_only"
    await keys("retire", "m2")
    assert states(world)["m2"] == "destroyed"


async def test_two_at_once_are_one_and_a_conflict(world: SealedWorld, keys: Run) -> None:
    ring = world.settings.keyring_path.read_bytes()
    async with alone(world.settings.database):
        for command in (["rotate"], ["retire", "m1"]):
            refused = await keys(*command, exits=1)
            assert "Another command is changing the keys" in refused["title"]
    assert world.settings.keyring_path.read_bytes() == ring


@contextmanager
def busy(world: SealedWorld, provider: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.control.keys.busy", provider],
        env=own_environment(**environment(world)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(240)  # five interpreters start, on whatever the machine has left
async def test_four_processes_go_on_while_keys_are_rotated_and_retired(
    world: SealedWorld, keys: Run
) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(busy(world, f"own{n}")) for n in range(4)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for _ in range(2):
            await keys("rotate")
        await keys("rotate", "--resume")
        await keys("retire", "m2")
        for worker in workers:
            rounds, _ = await asyncio.to_thread(worker.communicate, timeout=120)
            assert worker.returncode == 0
            assert int(rounds) > 0
    await world.vault.reload()
    assert len(await world.everything()) > 0
    assert await world.whole()
    counted = (await world.counts())[CONNECTIONS]
    assert "m2" not in counted
    assert sum(counted.values()) == CONNECTED + 4


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
async def test_a_new_key_is_kept_by_a_secret_store(
    world: SealedWorld, keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, vault = tmp_path / "site", tmp_path / "vault.json"
    (site / "acme_store-1.dist-info").mkdir(parents=True)
    (site / "acme_store.py").write_text(STORE)
    info = site / "acme_store-1.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-store\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[aura.plugins]\nacme = acme_store\n")
    more = {"AURA_ACME_FILE": str(vault)}
    monkeypatch.syspath_prepend(str(site))
    before = await world.everything()
    refused = await keys("rotate", "--store", "other:x", exits=2, **more)
    assert "acme" in refused["hint"]  # and those of plugins that are installed
    assert states(world) == {"m1": "active"}
    done = await keys("rotate", "--store", "acme:kv/data/aura", **more)
    assert done["active"] == "m2"
    assert world.settings.keyring_path.read_text().endswith("\nm2:active:acme:kv/data/aura#m2\n")
    kept = (await keys("status", **more))["keys"][1]["kept"]
    assert kept == "acme:kv/data/aura"
    lines = await keys(group="doctor", as_json=False, **more)
    assert "secret store acme: answers" in lines
    assert "master key: m2 has reserved" in lines
    # With a store that lost the key, nothing starts.
    content = vault.read_text()
    vault.write_text("{}")
    assert "acme has no such key" in (await keys("status", exits=2, **more))["title"]
    vault.write_text(content)
    assert (await keys("rotate", **more))["active"] == "m3"
    done = await keys("retire", "m2", **more)
    assert "Destroy it in its store: acme:kv/data/aura." in done["next"]
    assert "acme" not in world.settings.keyring_path.read_text()
    await world.vault.reload()
    assert await world.everything() == before


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
