"""Master keys that are kept by a plugin's secret store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aura_core.compute import HostContext
from aura_core.crypto import Keyring, MasterKey
from aura_core.errors import AuraError, ConfigurationError, PluginError, ProviderUnavailable
from aura_core.registry import Registry
from aura_core.secret_stores import SecretStores
from tests.core.plugins import PluginFolder

STORE = """
from aura_core.hookspecs import hookimpl

class Store:
    def __init__(self, scheme, context):
        self.scheme = scheme
        self.place = context.settings["AURA_ACME_PLACE"]

    def fetch(self, reference):
        return b"k" * 32

    def keep(self, place, *, name, material):
        return place + "#" + name

    def check(self):
        pass

@hookimpl
def aura_secret_stores(context):
    return [Store("acme", context)]
"""
MATERIAL = b"k" * 32


class Kept:
    """A store in memory that can misbehave."""

    scheme = "kept"

    def __init__(self) -> None:
        self.content: dict[str, object] = {}
        self.wrong: Exception | None = None
        self.asked = 0

    def fetch(self, reference: str) -> bytes:
        self.asked += 1
        if self.wrong is not None:
            raise self.wrong
        found = self.content[reference]
        assert isinstance(found, bytes | str)
        return found  # type: ignore[return-value]

    def keep(self, place: str, *, name: str, material: bytes) -> str:
        self.content[f"{place}#{name}"] = material
        return f"{place}#{name}"

    def check(self) -> None:
        if self.wrong is not None:
            raise self.wrong


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def stores(kept: Kept) -> SecretStores:
    return SecretStores(lambda: {"kept": kept})


def registry(tmp_path: Path, folder: PluginFolder) -> Registry:
    context = HostContext(data_dir=tmp_path, settings={"AURA_ACME_PLACE": "here"})
    return Registry.discover(entry_points=folder.entry_points(), context=context)


def test_a_plugin_offers_a_store_with_its_settings(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path / "site")
    folder.add("store", init=STORE)
    with folder.on_path():
        found = registry(tmp_path, folder).secret_stores()
        assert {scheme: store.place for scheme, store in found.items()} == {  # type: ignore[attr-defined]
            "acme": "here"
        }


def test_a_scheme_that_two_plugins_offer_is_nobodys(tmp_path: Path) -> None:
    folder = PluginFolder(tmp_path / "site")
    folder.add("store", init=STORE)
    folder.add("other", init=STORE)
    with folder.on_path():
        found = registry(tmp_path, folder)
        assert found.secret_stores() == {}
        (line,) = [entry for entry in found.listings() if entry.status == "quarantined"]
        assert "acme-store" in line.distribution
        assert "acme-other" in line.distribution


def test_a_ring_holds_the_reference_and_not_the_material(stores: SecretStores, kept: Kept) -> None:
    reference = stores.keep("kept:kv/data/aura", kid="m2", material=MATERIAL)
    ring = Keyring.generate().prepare(
        MasterKey(kid="m2", material=MATERIAL, state="decrypt_only", reference=reference)
    )
    text = ring.activate("m2").dump()
    assert text.endswith("\nm2:active:kept:kv/data/aura#m2\n")
    again = Keyring.parse(text, fetch=stores.fetch)
    assert again.dump() == text
    assert again.tenant("t", bytes(32)).commitments == ring.tenant("t", bytes(32)).commitments
    assert "kv/data" not in again.destroy("m1").rotate().destroy("m2").dump()


def test_a_reference_to_a_store_that_is_not_installed_says_so_without_repeating_it(
    stores: SecretStores,
) -> None:
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        Keyring.parse("m1:active:a2tra2tra2tr:x", fetch=stores.fetch)
    assert "a2tra2" not in str(caught.value)
    assert caught.value.hint == "Installed secret stores: kept."
    with pytest.raises(ConfigurationError, match="no secret store to ask"):
        Keyring.parse("m1:active:kept:x")


@pytest.mark.parametrize("answer", [b"k" * 31, b"", "k" * 32])
def test_what_is_not_a_key_is_refused(stores: SecretStores, kept: Kept, answer: object) -> None:
    kept.content["kept:x"] = answer
    with pytest.raises(ConfigurationError, match="m1: the secret store kept answered"):
        Keyring.parse("m1:active:kept:x", fetch=stores.fetch)


def test_a_key_that_the_store_does_not_give_back_is_never_used(
    stores: SecretStores, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "fetch", lambda reference: os.urandom(32))
    with pytest.raises(ConfigurationError, match="does not give back"):
        stores.keep("kept:x", kid="m2", material=MATERIAL)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ProviderUnavailable("It is not reached."), ProviderUnavailable),
        (ConfigurationError("The login is refused."), ConfigurationError),
        (RuntimeError("the material is kkkk"), PluginError),
    ],
    ids=["unavailable", "configuration", "anything"],
)
def test_what_a_store_raises_keeps_its_meaning_and_no_secret(
    stores: SecretStores, kept: Kept, raised: Exception, expected: type[AuraError]
) -> None:
    kept.wrong = raised
    with pytest.raises(expected) as caught:
        stores.fetch("m1", "kept:x")
    assert "kkkk" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert isinstance(stores.check()["kept"], expected)


def test_a_store_that_answers_is_well(stores: SecretStores) -> None:
    assert stores.check() == {"kept": None}
