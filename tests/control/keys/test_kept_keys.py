"""Master keys that a secret store keeps, as ``aura keys`` goes about them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.control.keys.commands import Run, keys, killed, states
from tests.control.keys.sealed_world import SealedWorld

__all__ = ["keys"]

STORE = '''
import base64, json, os
from pathlib import Path
from aura_core.errors import ConfigurationError, Conflict
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
        if reference in self._read():
            raise Conflict("acme holds another key.")
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


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path, content: str) -> None:
    path.write_text(content)


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """What the store keeps."""
    return tmp_path / "vault.json"


@pytest.fixture
def more(tmp_path: Path, vault: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings of a plugin that is installed."""
    site = tmp_path / "site"
    info = site / "acme_store-1.dist-info"
    info.mkdir(parents=True)
    (site / "acme_store.py").write_text(STORE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-store\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[aura.plugins]\nacme = acme_store\n")
    monkeypatch.syspath_prepend(str(site))
    return {"AURA_ACME_FILE": str(vault), "PYTHONPATH": str(site)}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_new_key_is_kept_by_a_secret_store(
    world: SealedWorld, keys: Run, vault: Path, more: dict[str, str]
) -> None:
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
    content = read(vault)
    write(vault, "{}")
    assert "acme has no such key" in (await keys("status", exits=2, **more))["title"]
    write(vault, content)
    assert (await keys("rotate", **more))["active"] == "m3"
    done = await keys("retire", "m2", **more)
    assert (
        "Remove m2 from its store, in each version that is kept there: acme:kv/data/aura."
        in done["next"]
    )
    assert "acme" not in world.settings.keyring_path.read_text()
    await world.vault.reload()
    assert await world.everything() == before


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_key_that_was_kept_and_never_named_is_passed_over(
    world: SealedWorld, keys: Run, vault: Path, more: dict[str, str]
) -> None:
    """Killed between the store and the ring, it is run again. What lies in the store could also
    have been laid there by somebody who knows it: it is not taken up."""
    step = "aura_control.services.ring:RingFile.write before 1"
    rotate = ("rotate", "--store", "acme:kv/data/aura")
    await asyncio.to_thread(killed, world, step, *rotate, **more)
    lost = read(vault)
    assert "#m2" in lost
    assert states(world) == {"m1": "active"}
    assert (await keys(*rotate, **more))["active"] == "m3"
    assert lost.strip("{}") in read(vault)
    ring = world.settings.keyring_path.read_text().splitlines()
    assert [entry.split(":")[:2] for entry in ring] == [["m1", "decrypt_only"], ["m3", "active"]]
    assert (await keys("retire", **more))["retired"] == "m1"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_reference_to_another_key_of_the_store_is_refused(
    world: SealedWorld, keys: Run, more: dict[str, str]
) -> None:
    ring = world.settings.keyring_path
    await keys("rotate", "--store", "acme:kv/data/aura", **more)
    ring.write_text(ring.read_text().replace("#m2", "#m1"))
    refused = await keys("status", exits=2, **more)
    assert "m2: its reference in the keyring names another key" in refused["title"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_the_doctor_asks_the_stores_that_the_keyring_names(
    world: SealedWorld, keys: Run, vault: Path, more: dict[str, str]
) -> None:
    async def outcomes(exits: int) -> dict[str, str]:
        found = (await keys(group="doctor", exits=exits, **more))["findings"]
        return {one["check"]: one["outcome"] for one in found if "store" in one["check"]}

    assert await outcomes(0) == {}
    await keys("rotate", "--store", "acme:kv/data/aura", **more)
    assert await outcomes(0) == {"secret store acme": "ok"}
    more["AURA_ACME_FILE"] = str(vault / "not" / "mounted")
    assert await outcomes(1) == {"secret store acme": "fail"}
