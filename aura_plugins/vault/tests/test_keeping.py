"""Master keys as fields of a secret, and wrapped by a transit key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aura_plugin_vault.store import VaultStore

from aura_core.encoding import b64url
from aura_core.errors import ConfigurationError, Conflict, ProviderUnavailable
from aura_core.testing.secret_stores import check_secret_store
from aura_plugins.vault.tests.conftest import EVERYTHING, TOKEN
from aura_plugins.vault.tests.server import TransitKey, Vault, Version

KV = "vault:kv/data/aura/master-keys"
TRANSIT = "vault:transit/keys/aura"
FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


def test_kv_keeps_the_contract(store: VaultStore) -> None:
    check_secret_store(store, KV, binds=False)


@pytest.mark.parametrize("derived", [False, True])
def test_transit_keeps_the_contract(vault: Vault, store: VaultStore, derived: bool) -> None:
    vault.keys["aura"] = TransitKey(derived=derived)
    check_secret_store(store, TRANSIT, binds=True)


def test_other_fields_stay(vault: Vault, store: VaultStore) -> None:
    vault.secrets["aura/master-keys"] = [Version({"m1": b64url(FIRST), "note": {"a": [1, None]}})]
    assert store.keep(KV, name="m2", material=SECOND) == f"{KV}#m2"
    assert vault.secrets["aura/master-keys"][-1].data == {
        "m1": b64url(FIRST),
        "m2": b64url(SECOND),
        "note": {"a": [1, None]},
    }


def test_the_same_key_again_writes_nothing(vault: Vault, store: VaultStore) -> None:
    store.keep(KV, name="m1", material=FIRST)
    store.keep(KV, name="m1", material=FIRST)
    assert len(vault.secrets["aura/master-keys"]) == 1


def test_another_key_is_never_overwritten(vault: Vault, store: VaultStore) -> None:
    store.keep(KV, name="m1", material=FIRST)
    with pytest.raises(Conflict, match="holds another key"):
        store.keep(KV, name="m1", material=SECOND)
    assert store.fetch(f"{KV}#m1") == FIRST


def other_writer(vault: Vault, times: int) -> Callable[[str, str], None]:
    """Writes a field of its own after each of the first reads."""
    left = [times]

    def before(method: str, path: str) -> None:
        if method == "POST" and path == "kv/data/aura/master-keys" and left[0]:
            left[0] -= 1
            versions = vault.secrets.setdefault("aura/master-keys", [])
            data = versions[-1].data if versions else {}
            versions.append(Version({**data, f"theirs{left[0]}": "x"}))

    return before


@pytest.mark.parametrize("exists", [False, True])
def test_who_writes_in_between_loses_nothing(vault: Vault, store: VaultStore, exists: bool) -> None:
    if exists:
        vault.secrets["aura/master-keys"] = [Version({"m1": b64url(FIRST)})]
    vault.before = other_writer(vault, 1)
    store.keep(KV, name="m2", material=SECOND)
    data = vault.secrets["aura/master-keys"][-1].data
    assert set(data) == ({"m1"} if exists else set()) | {"m2", "theirs0"}


def test_a_race_that_does_not_end_is_given_up(vault: Vault, store: VaultStore) -> None:
    vault.before = other_writer(vault, 9)
    with pytest.raises(ProviderUnavailable, match="at the same time"):
        store.keep(KV, name="m2", material=SECOND)
    assert "m2" not in vault.secrets["aura/master-keys"][-1].data


@pytest.mark.parametrize("state", [{"deleted": "2026-01-01T00:00:00Z"}, {"destroyed": True}])
def test_a_deleted_version_is_not_written_over(
    vault: Vault, store: VaultStore, state: dict[str, str | bool]
) -> None:
    deleted = Version({"m1": b64url(FIRST)}, **state)  # type: ignore[arg-type]
    vault.secrets["aura/master-keys"] = [deleted]
    for ask in (
        lambda: store.keep(KV, name="m2", material=SECOND),
        lambda: store.fetch(f"{KV}#m1"),
    ):
        with pytest.raises(ConfigurationError, match="is deleted"):
            ask()
    assert vault.secrets["aura/master-keys"] == [deleted]


@pytest.mark.parametrize(
    "value", ["", "AAAA", b64url(FIRST) + "=", "ä" * 43, 7, None, {"a": 1}, b64url(FIRST * 2)]
)
def test_a_field_that_holds_no_key_is_not_repeated(
    vault: Vault, store: VaultStore, value: object
) -> None:
    vault.secrets["aura/master-keys"] = [Version({"m1": value})]
    with pytest.raises(ConfigurationError, match="Field m1 of kv/data/aura/master-keys") as caught:
        store.fetch(f"{KV}#m1")
    assert not value or str(value) not in str(caught.value)


def test_what_is_missing_is_named(store: VaultStore, vault: Vault) -> None:
    with pytest.raises(ConfigurationError, match="no secret at kv/data/aura/absent"):
        store.fetch("vault:kv/data/aura/absent#m1")
    store.keep(KV, name="m1", material=FIRST)
    with pytest.raises(ConfigurationError, match="has no field m2"):
        store.fetch(f"{KV}#m2")
    with pytest.raises(ConfigurationError, match="no transit key at transit/keys/absent"):
        store.keep("vault:transit/keys/absent", name="m1", material=FIRST)
    assert "absent" not in vault.keys


def test_no_transit_key_is_made_by_wrapping(vault: Vault, store: VaultStore) -> None:
    # Where the policy allows it, encrypting under a mistyped name makes a key.
    vault.policies[TOKEN] = EVERYTHING | {r"transit/encrypt/.+": {"create", "update"}}
    with pytest.raises(ConfigurationError, match="no transit key"):
        store.keep("vault:transit/keys/arua", name="m1", material=FIRST)
    assert set(vault.keys) == {"aura"}


def test_one_wrapped_key_is_not_another(store: VaultStore) -> None:
    kept = store.keep(TRANSIT, name="m1", material=FIRST)
    with pytest.raises(ConfigurationError, match="does not unwrap m2"):
        store.fetch(kept.replace("#m1.", "#m2."))


def test_a_vault_that_does_not_bind_is_found_out(vault: Vault, store: VaultStore) -> None:
    vault.knows_associated_data = False
    with pytest.raises(ConfigurationError, match="does not bind"):
        store.keep(TRANSIT, name="m1", material=FIRST)
    vault.keys["aura"] = TransitKey(derived=True)
    assert store.fetch(store.keep(TRANSIT, name="m1", material=FIRST)) == FIRST


def test_a_key_that_cannot_wrap_says_so(vault: Vault, store: VaultStore) -> None:
    vault.keys["aura"] = TransitKey(type="rsa-2048")
    with pytest.raises(ConfigurationError, match="does not wrap"):
        store.keep(TRANSIT, name="m1", material=FIRST)


@pytest.mark.parametrize(
    "reference",
    [
        "vault:kv/data/aura/master-keys",
        "vault:kv/data/aura/master-keys#",
        "vault:kv/data/aura/master-keys#a/b",
        "vault:kv/data/../sys/raw#m1",
        "vault:kv/data/aura/./x#m1",
        "vault:kv/data/#m1",
        "vault:data/x#m1",
        "vault:kv/metadata/x#m1",
        "vault:kv/data/x?version=1#m1",
        "vault:kv/data/x%2e#m1",
        "vault:transit/keys/aura#m1",
        "vault:transit/keys/aura#m1.AAAA",
        "vault:transit/keys/a/b#m1.vault:v1:AAAA",
        "vault:transit/keys/aura#vault:v1:AAAA",
        "aws-kms:alias/x#m1.AAAA",
    ],
)
def test_what_is_no_reference_reaches_no_vault(
    vault: Vault, store: VaultStore, reference: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        store.fetch(reference)
    assert reference not in str(caught.value)
    assert vault.seen == []
