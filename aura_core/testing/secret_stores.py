"""What any secret store has to do, tried against a real place:

def test_it_keeps_the_contract() -> None:
    check_secret_store(MyStore(settings), "mine:place", binds=True)
"""

from __future__ import annotations

import secrets
from base64 import b64encode

import pytest

from aura_core.encoding import b64url
from aura_core.errors import AuraError, ConfigurationError, PluginError
from aura_core.secret_stores import SecretStore

__all__ = ["check_secret_store"]


def check_secret_store(store: SecretStore, place: str, *, binds: bool) -> None:
    """Keeps two keys at ``place`` and fetches them, and damages what it got.

    ``binds`` says that the store wraps: that one wrapped key must not pass for another.
    """
    store.check()
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    kept = {
        name: store.keep(place, name=name, material=material)
        for name, material in (("m1", first), ("m2", second))
    }
    for name, reference in kept.items():
        assert reference.startswith(f"{store.scheme}:")
        assert reference.count("#") == 1, "what stands before the # is the place"
        fragment = reference.partition("#")[2]
        assert fragment.split(".")[0] == name, "the fragment begins with the key's id"
        # A keyring's text separates entries by lines and commas.
        assert reference.isprintable()
        assert not set(reference) & set(" ,")
    assert store.fetch(kept["m1"]) == first
    assert store.fetch(kept["m2"]) == second
    _refuse(store, _damaged(kept, place, binds=binds), (first, second))
    for material in (first, second):
        _absent(material, repr(store), *(() if not binds else kept.values()))


def _damaged(kept: dict[str, str], place: str, *, binds: bool) -> list[str]:
    damaged = [place, f"{place}#", f"{place}#m9", f"{place[:-1]}absent#m1", f"{kept['m1']}x"]
    if binds:
        wrapped = {
            name: reference.partition("#")[2][len(name) :] for name, reference in kept.items()
        }
        damaged += [
            kept["m1"].replace("#m1.", "#m2."),
            kept["m2"].replace("#m2.", "#m1."),
            kept["m1"].replace(wrapped["m1"], wrapped["m2"]),
        ]
    return damaged


def _refuse(store: SecretStore, references: list[str], materials: tuple[bytes, ...]) -> None:
    for reference in references:
        with pytest.raises(AuraError) as caught:
            store.fetch(reference)
        assert isinstance(caught.value, ConfigurationError), reference
        assert not isinstance(caught.value, PluginError)
        for material in materials:
            _absent(material, str(caught.value), repr(caught.value), repr(caught.value.__context__))


def _absent(material: bytes, *texts: str) -> None:
    for text in texts:
        for spelling in (b64url(material), b64encode(material).decode(), material.hex()):
            assert spelling not in text
