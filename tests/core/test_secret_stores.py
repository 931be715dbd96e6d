"""Master keys that are kept by a plugin's secret store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aura_core.compute import HostContext
from aura_core.crypto import Keyring, MasterKey
from aura_core.errors import (
    AuraError,
    ConfigurationError,
    Conflict,
    PluginError,
    ProviderUnavailable,
)
from aura_core.registry import Registry
from aura_core.secret_stores import SecretStores, wraps
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
        Keyring.parse("m1:active:a2tra2tra2tr:x#m1", fetch=stores.fetch)
    assert "a2tra2" not in str(caught.value)
    assert caught.value.hint == "Installed secret stores: kept."
    with pytest.raises(ConfigurationError, match="no secret store to ask"):
        Keyring.parse("m1:active:kept:x")


@pytest.mark.parametrize("answer", [b"k" * 31, b"", "k" * 32])
def test_what_is_not_a_key_is_refused(stores: SecretStores, kept: Kept, answer: object) -> None:
    kept.content["kept:x#m1"] = answer
    with pytest.raises(ConfigurationError, match="m1: the secret store kept answered"):
        Keyring.parse("m1:active:kept:x#m1", fetch=stores.fetch)


@pytest.mark.parametrize(
    "reference",
    [
        "kept:x#m1",
        "kept:x#m1.AAAA",
        "kept:x#m22",
        "kept:x#m22.AAAA",
        "kept:x",
        "kept:x#",
        "kept:m2",
    ],
)
def test_a_reference_to_another_key_is_refused_before_the_store_is_asked(
    stores: SecretStores, kept: Kept, reference: str
) -> None:
    kept.content[reference] = MATERIAL
    with pytest.raises(ConfigurationError, match="m2: its reference in the keyring names another"):
        Keyring.parse(f"m2:active:{reference}", fetch=stores.fetch)
    assert kept.asked == 0


def test_a_reference_that_the_store_made_up_is_refused(
    stores: SecretStores, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in ("kept:x#m3", "kept:x", "other:x#m2", "", None):
        kept.content[str(made)] = MATERIAL
        monkeypatch.setattr(kept, "keep", lambda *_, made=made, **__: made)
        with pytest.raises(ConfigurationError):
            stores.keep("kept:x", kid="m2", material=MATERIAL)


def test_a_store_may_name_the_place_more_precisely(
    stores: SecretStores, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.content["kept:exactly/x#m2"] = MATERIAL
    monkeypatch.setattr(kept, "keep", lambda *_, **__: "kept:exactly/x#m2")
    made = stores.keep("kept:alias/x", kid="m2", material=MATERIAL)
    assert made == "kept:exactly/x#m2"


def test_a_taken_name_is_told_apart(stores: SecretStores, kept: Kept) -> None:
    def taken(*_: object, **__: object) -> str:
        raise Conflict("It holds another key.")

    kept.keep = taken  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        stores.keep("kept:x", kid="m2", material=MATERIAL)


@pytest.mark.parametrize(
    ("reference", "wrapped"),
    [("vault:kv/data/a.b#m2", False), ("vault:transit/keys/a#m2.vault:v1:A", True)],
)
def test_what_a_store_wraps_it_does_not_keep(reference: str, wrapped: bool) -> None:
    assert wraps(reference) is wrapped


def test_the_references_of_a_ring_are_read_without_asking() -> None:
    text = "# m0:active:kept:none#m0\nm1:destroyed:, m2:active:kept:a#m2\nm3:x:other:b#m3.C\nkept:c"
    assert Keyring.references(text) == ("kept:a#m2", "other:b#m3.C")


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
        stores.fetch("m1", "kept:x#m1")
    assert "kkkk" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert isinstance(stores.check(["kept:x#m1"])["kept"], expected)


def test_a_store_that_answers_is_well(stores: SecretStores, kept: Kept) -> None:
    assert stores.check(["kept:x#m1", "kept:x#m2", "other:y#m3"]) == {"kept": None}
    kept.wrong = ConfigurationError("Nobody set it up.")
    assert stores.check([]) == {}
