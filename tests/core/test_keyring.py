from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.crypto import Identity, Keyring, KeyState, MasterKey, envelope_kid
from aura_core.encoding import b64url
from aura_core.errors import ConfigurationError, EnvelopeError

SALT = bytes(range(32))
SECRET = b64url(b"k" * 32)


def key(kid: str, state: KeyState, byte: bytes = b"k") -> MasterKey:
    return MasterKey(kid=kid, material=b"" if state == "destroyed" else byte * 32, state=state)


@given(st.lists(st.sampled_from(["decrypt_only", "destroyed"]), max_size=5), st.integers(0, 5))
def test_a_ring_survives_being_written_and_read(others: list[KeyState], at: int) -> None:
    states: list[KeyState] = [*others]
    states.insert(at, "active")
    ring = Keyring(
        MasterKey(
            kid=f"m{number}",
            material=b"" if state == "destroyed" else os.urandom(32),
            state=state,
        )
        for number, state in enumerate(states, 1)
    )
    again = Keyring.parse(ring.dump())
    assert again.dump() == ring.dump()
    assert again.states == ring.states == {f"m{n}": s for n, s in enumerate(states, 1)}
    assert again.tenant("t1", SALT).commitments == ring.tenant("t1", SALT).commitments


def test_a_ring_is_read_from_lines_or_commas() -> None:
    old, new = (b64url(b * 32) for b in (b"o", b"n"))
    lines = Keyring.parse(f"# kept since spring\nm1:decrypt_only:{old}\n\n m2:active:{new}\n")
    commas = Keyring.parse(f"m1:decrypt_only:{old}, m2:active:{new}")
    assert lines.dump() == commas.dump()
    assert lines.active == "m2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 active"),
        (f"m1:decrypt_only:{SECRET}", "0 active"),
        (f"m1:active:{SECRET},m2:active:{b64url(b'x' * 32)}", "2 active"),
        (f"m1:active:{SECRET},m1:decrypt_only:{b64url(b'x' * 32)}", "twice"),
        (f"m1:active:{SECRET},m2:decrypt_only:{SECRET}", "same material"),
        (SECRET, "Entry 1 .* is not <id>"),
        (f"m1:active:{SECRET}:x", "Entry 1 .* is a reference, and there is no secret store"),
        (f"m1:active:{SECRET.upper()}:x", "Entry 1 .* is not <id>"),
        ("m1:active:vault: x", "Entry 1 .* is not <id>"),
        ("m1:destroyed:vault:x", "Entry 1 .* is not <id>"),
        (f"{SECRET}:active:m1", "Entry 1 .* id"),
        (f"m0:active:{SECRET}", "Entry 1 .* id"),
        (f"m01:active:{SECRET}", "Entry 1 .* id"),
        (f"m1:{SECRET}:active", "Entry 1 .* state"),
        (f"m1:ACTIVE:{SECRET}", "Entry 1 .* state"),
        (f"m1:active:{SECRET}=", "Entry 1 .* base64url"),
        (f"m1:active:{SECRET[:40]}", "m1 .active. must have 32"),
        ("m1:active:", "m1 .active. must have 32"),
        (f"m1:destroyed:{SECRET}", "m1 .destroyed. must have 0"),
    ],
)
def test_a_text_that_makes_no_ring_is_refused_without_showing_it(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Keyring.parse(text)
    assert SECRET[:20] not in f"{caught.value!r} {caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("kid", "material", "state"),
    [
        ("m1", b"k" * 31, "active"),
        ("m1", "k" * 32, "active"),
        ("m1", b"k", "destroyed"),
        ("m1", b"k" * 32, "retired"),
        ("1", b"k" * 32, "active"),
        (1, b"k" * 32, "active"),
    ],
)
def test_a_master_key_checks_itself(kid: str, material: bytes, state: KeyState) -> None:
    with pytest.raises(ConfigurationError):
        MasterKey(kid=kid, material=material, state=state)


def test_rotation_keeps_what_was_sealed_readable_until_the_key_is_destroyed() -> None:
    identity = Identity(tenant_id="t1", connection_id="c1", field="f", revision=1)
    first = Keyring.generate()
    stored = first.tenant("t1", SALT).seal(b"a token", identity)
    second = first.rotate().rotate()
    assert second.states == {"m1": "decrypt_only", "m2": "decrypt_only", "m3": "active"}
    assert second.tenant("t1", SALT).open(stored, identity) == b"a token"
    assert second.destroy("m1").states["m1"] == "destroyed"
    assert "m1:destroyed:\n" in second.destroy("m1").dump()


def test_the_active_or_an_unknown_key_cannot_be_destroyed() -> None:
    ring = Keyring.generate()
    with pytest.raises(ConfigurationError, match="0 active"):
        ring.destroy("m1")
    with pytest.raises(ConfigurationError, match="no master key m2"):
        ring.destroy("m2")


def test_a_prepared_key_opens_and_does_not_seal_until_it_is_activated() -> None:
    identity = Identity(tenant_id="t1", connection_id="c1", field="f", revision=1)
    first = Keyring.generate()
    prepared = first.prepare(MasterKey(kid="m2", material=b"n" * 32, state="decrypt_only"))
    assert (first.successor, prepared.successor, prepared.active) == (None, "m2", "m1")
    active = prepared.activate("m2")
    assert active.states == {"m1": "decrypt_only", "m2": "active"}
    assert active.successor is None
    stored = active.tenant("t1", SALT).seal(b"a token", identity)
    assert prepared.tenant("t1", SALT).open(stored, identity) == b"a token"
    for kid in ("m1", "m2", "m3"):
        with pytest.raises(ConfigurationError, match="not a prepared key"):
            active.activate(kid)


def test_sealing_again_changes_the_key_and_nothing_else() -> None:
    identity = Identity(tenant_id="t1", connection_id="c1", field="f", revision=1)
    first = Keyring.generate()
    old = first.tenant("t1", SALT).seal(b"a token", identity)
    keys = first.rotate().tenant("t1", SALT)
    new = keys.rewrap(old, identity)
    assert (envelope_kid(old), envelope_kid(new)) == ("m1", "m2")
    assert keys.open(new, identity) == b"a token"
    assert keys.rewrap(new, identity) is new
    with pytest.raises(EnvelopeError):
        keys.rewrap(old, Identity(tenant_id="t1", connection_id="c2", field="f", revision=1))


def test_every_tenant_salt_and_master_key_gives_keys_of_its_own() -> None:
    ring = Keyring([key("m1", "decrypt_only", b"a"), key("m2", "active", b"b")])
    commitments = [
        commitment
        for tenant_id in ("t1", "t2")
        for salt in (SALT, bytes(32))
        for commitment in ring.tenant(tenant_id, salt).commitments.values()
    ]
    assert len(set(commitments)) == 8


def test_a_tenants_keys_are_derived_once_until_they_are_forgotten() -> None:
    ring = Keyring.generate()
    tenant = ring.tenant("t1", SALT)
    assert ring.tenant("t1", SALT) is tenant
    ring.forget("t2")
    assert ring.tenant("t1", SALT) is tenant
    ring.forget("t1")
    assert ring.tenant("t1", SALT) is not tenant


def test_the_cache_does_not_grow_for_ever_and_keeps_the_counts() -> None:
    ring = Keyring.generate()
    tenant = ring.tenant("t0", SALT)
    tenant.seal(b"", Identity(tenant_id="t0", connection_id="c", field="f", revision=1))
    for number in range(1, 1100):
        ring.tenant(f"t{number}", SALT)
    again = ring.tenant("t0", SALT)
    assert again is not tenant
    assert again.uses == 1
    assert again.commitments == tenant.commitments


def test_seals_from_several_threads_are_all_counted() -> None:
    tenant = Keyring.generate().tenant("t1", SALT)
    identity = Identity(tenant_id="t1", connection_id="c", field="f", revision=1)

    def seal_many() -> None:
        for _ in range(500):
            tenant.seal(b"", identity)

    threads = [threading.Thread(target=seal_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tenant.uses == 2000


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33), "s" * 32, None])
def test_a_tenant_without_its_salt_has_no_keys(salt: bytes) -> None:
    with pytest.raises(ValueError, match="salt"):
        Keyring.generate().tenant("t1", salt)


def test_keys_for_other_purposes_differ_by_purpose_tenant_salt_and_master_key() -> None:
    ring = Keyring.generate().rotate()
    derived = [
        ring.derive("aura/audit-key/v1"),
        ring.derive("aura/audit-key/v1", "t1"),
        ring.derive("aura/audit-key/v1", "t1", SALT),
        ring.derive("aura/audit-key/v1", "t2", SALT),
        ring.derive("aura/audit-key/v1", "t1", SALT, kid="m1"),
        ring.derive("aura/oauth-state/v1", "t1", SALT),
        ring.derive("aura/cookies/v1"),
    ]
    assert len(set(derived)) == len(derived)
    assert {len(one) for one in derived} == {32}
    rotated = ring.rotate()
    assert rotated.derive("aura/audit-key/v1", "t1", SALT, kid="m2") == derived[2]
    assert rotated.derive("aura/audit-key/v1", "t1", SALT) != derived[2]


@pytest.mark.parametrize("label", ["aura/tenant-key/v1", "audit", "aura/x/v0", "aura/x/v1 ", ""])
def test_the_tenants_own_keys_cannot_be_had_as_a_derivation(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        Keyring.generate().derive(label, "t1", SALT)


def test_nothing_is_derived_from_a_key_that_is_not_there() -> None:
    ring = Keyring.generate().rotate().destroy("m1")
    for kid in ("m1", "m7"):
        with pytest.raises(ConfigurationError, match=f"{kid} is destroyed or unknown"):
            ring.derive("aura/audit-key/v1", kid=kid)
