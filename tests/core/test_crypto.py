from __future__ import annotations

import json
import re
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.crypto import (
    NONCE_LIMIT,
    Identity,
    Keyring,
    MasterKey,
    envelope_digest,
    envelope_kid,
)
from aura_core.errors import ConfigurationError, EnvelopeError

SALT = bytes(range(32))
OLD = MasterKey(kid="m1", material=b"o" * 32, state="decrypt_only")
NEW = MasterKey(kid="m2", material=b"n" * 32, state="active")
RING = Keyring([OLD, NEW])
TENANT = RING.tenant("t1", SALT)
IDENTITY = Identity(tenant_id="t1", connection_id="c1", field="access_token", revision=7)
STORED = TENANT.seal(b"a token", IDENTITY)

ids = st.text(min_size=1, max_size=8)
identities = st.builds(
    Identity,
    tenant_id=st.just("t1"),
    connection_id=ids,
    field=ids,
    revision=st.integers(0, 2**53),
)


def under_old_key(plaintext: bytes, identity: Identity) -> str:
    ring = Keyring([replace(OLD, state="active")])
    return ring.tenant(identity.tenant_id, SALT).seal(plaintext, identity)


@given(st.binary(max_size=200), identities)
def test_what_was_sealed_opens(plaintext: bytes, identity: Identity) -> None:
    assert TENANT.open(TENANT.seal(plaintext, identity), identity) == plaintext


@given(identities, identities)
def test_a_value_opens_only_as_what_it_was_sealed_as(one: Identity, other: Identity) -> None:
    stored = TENANT.seal(b"a token", one)
    if one == other:
        assert TENANT.open(stored, other) == b"a token"
    else:
        with pytest.raises(EnvelopeError):
            TENANT.open(stored, other)


@pytest.mark.parametrize(
    "moved",
    [
        {"connection_id": "c2"},
        {"field": "refresh_token"},
        {"revision": 6},
        {"revision": 8},
        {"connection_id": "access_token", "field": "c1"},
        {"connection_id": "c1access_token", "field": "x"},
        {"connection_id": "c", "field": "1access_token"},
        {"field": "access_token7", "revision": 0},
        {"field": "access_toke", "revision": 7},
    ],
)
def test_a_moved_value_does_not_open(moved: dict[str, object]) -> None:
    with pytest.raises(EnvelopeError, match="does not open"):
        TENANT.open(STORED, replace(IDENTITY, **moved))  # type: ignore[arg-type]


def test_a_value_does_not_open_for_another_tenant() -> None:
    other = RING.tenant("t2", SALT)
    with pytest.raises(EnvelopeError, match="does not open"):
        other.open(STORED, replace(IDENTITY, tenant_id="t2"))
    for keys, identity in ((other, IDENTITY), (TENANT, replace(IDENTITY, tenant_id="t2"))):
        with pytest.raises(EnvelopeError, match="another tenant's"):
            keys.open(STORED, identity)
        with pytest.raises(EnvelopeError, match="another tenant's"):
            keys.seal(b"a token", identity)


def test_a_value_does_not_open_with_another_salt() -> None:
    with pytest.raises(EnvelopeError):
        RING.tenant("t1", bytes(32)).open(STORED, IDENTITY)


def test_a_value_does_not_open_under_another_key_id() -> None:
    with pytest.raises(EnvelopeError, match="does not open"):
        TENANT.open(STORED.replace('"kid":"m2"', '"kid":"m1"'), IDENTITY)
    same_material = Keyring([replace(NEW, kid="m9")]).tenant("t1", SALT)
    with pytest.raises(EnvelopeError):
        same_material.open(STORED.replace('"kid":"m2"', '"kid":"m9"'), IDENTITY)


@settings(max_examples=400)
@given(st.integers(0, 8 * len(STORED.encode()) - 1))
def test_an_envelope_with_one_bit_flipped_does_not_open(bit: int) -> None:
    raw = bytearray(STORED.encode())
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EnvelopeError):
        TENANT.open(raw.decode("latin-1"), IDENTITY)


def altered(**changes: object) -> str:
    return json.dumps(json.loads(STORED) | changes, separators=(",", ":"))


@pytest.mark.parametrize(
    "stored",
    [
        altered(v=2),
        altered(v=True),
        altered(v="1"),
        altered(extra=1),
        altered(kid="m0"),
        altered(kid="m01"),
        altered(kid="k1"),
        altered(kid="m٣"),
        altered(kid=2),
        altered(kid=["m2"]),
        altered(iv="AAAA"),
        altered(iv=None),
        altered(tag="AAAA"),
        altered(ct="QR"),
        altered(ct="QQ=="),
        STORED.replace('"v":1,', ""),
        STORED.replace('"v":1,', '"v":1,"v":1,'),
        STORED.replace('"v":1,', '"v":1.0,'),
        STORED.replace('"v":1,', '"v": 1,'),
        STORED.replace('"kid"', '"\\u006bid"'),
        json.dumps(dict(reversed(json.loads(STORED).items())), separators=(",", ":")),
        STORED + " ",
        STORED + "{}",
        "\ufeff" + STORED,
        "[]",
        "",
        "a token in clear text",
        None,
        STORED.encode(),
    ],
    ids=lambda _: "form",
)
def test_only_the_one_form_is_read(stored: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        TENANT.open(stored, IDENTITY)
    assert "clear text" not in str(caught.value)
    with pytest.raises(EnvelopeError):
        envelope_kid(stored)


def test_the_stored_form() -> None:
    assert re.fullmatch(
        r'\{"v":1,"kid":"m2","iv":"[\w-]{16}","ct":"[\w-]{10}","tag":"[\w-]{22}"\}', STORED
    )
    assert envelope_kid(STORED) == "m2"
    assert envelope_digest(STORED) == sha256(STORED.encode()).hexdigest()


def test_the_same_value_is_never_sealed_to_the_same_text() -> None:
    texts = {TENANT.seal(b"a token", IDENTITY) for _ in range(200)}
    assert len({json.loads(text)["iv"] for text in texts}) == 200


def test_a_decrypt_only_key_opens_and_the_active_one_seals() -> None:
    assert TENANT.open(under_old_key(b"old", IDENTITY), IDENTITY) == b"old"
    assert envelope_kid(TENANT.seal(b"new", IDENTITY)) == "m2" == TENANT.kid


def test_a_destroyed_or_missing_key_says_so() -> None:
    stored = under_old_key(b"old", IDENTITY)
    with pytest.raises(EnvelopeError, match="m1, which has been destroyed"):
        RING.destroy("m1").tenant("t1", SALT).open(stored, IDENTITY)
    with pytest.raises(EnvelopeError, match="m1, which the keyring lacks"):
        Keyring([NEW]).tenant("t1", SALT).open(stored, IDENTITY)


def test_a_recorded_commitment_is_compared_before_anything_is_opened() -> None:
    recorded = TENANT.commitments
    assert set(recorded) == {"m1", "m2"}
    assert recorded["m2"] == TENANT.commitment
    assert RING.tenant("t1", SALT, commitments=recorded).open(STORED, IDENTITY) == b"a token"
    swapped = Keyring([OLD, replace(NEW, material=b"x" * 32)])
    for ring, salt in ((swapped, SALT), (RING, bytes(32))):
        with pytest.raises(EnvelopeError, match="not the one that was recorded"):
            ring.tenant("t1", salt, commitments=recorded)
    with pytest.raises(EnvelopeError, match="not the one that was recorded"):
        RING.tenant("t1", SALT, commitments={"m1": recorded["m1"], "m2": bytes(32)})
    assert RING.tenant("t1", SALT, commitments={}).kid == "m2"
    assert RING.destroy("m1").tenant("t1", SALT, commitments=recorded).kid == "m2"


def test_the_uses_of_a_key_are_counted_and_end() -> None:
    ring = Keyring.generate()
    tenant = ring.tenant("t1", SALT)
    for _ in range(3):
        tenant.seal(b"", IDENTITY)
    assert tenant.uses == ring.tenant("t1", SALT, used=2).uses == 3
    ring.forget("t1")
    last = ring.tenant("t1", SALT, used=NONCE_LIMIT - 1)
    stored = last.seal(b"the last one", IDENTITY)
    for keys in (last, tenant, ring.tenant("t1", SALT)):
        with pytest.raises(ConfigurationError, match="must not seal more"):
            keys.seal(b"one too many", IDENTITY)
    assert last.open(stored, IDENTITY) == b"the last one"
    assert ring.rotate().tenant("t1", SALT).seal(b"", IDENTITY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tenant_id": ""},
        {"connection_id": ""},
        {"field": ""},
        {"field": b"f"},
        {"revision": -1},
        {"revision": True},
        {"revision": "7"},
    ],
)
def test_an_identity_checks_itself(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Identity"):
        replace(IDENTITY, **wrong)  # type: ignore[arg-type]


def test_no_key_material_shows() -> None:
    keys: list[object] = [OLD, NEW, RING, TENANT, IDENTITY]
    for shown in [f"{key!r} {key}" for key in keys]:
        assert "oooo" not in shown
        assert "nnnn" not in shown
    assert repr(RING) == "Keyring(m1 decrypt_only, m2 active)"


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (altered(v=2), "not of version 1"),
        (altered(extra=1), "a field too many or too few"),
        (altered(kid="k1"), "kid is not a key id"),
        (altered(tag="AAAA"), "tag is not 16 bytes"),
        (STORED + " ", "not in canonical form"),
    ],
    ids=["version", "fields", "kid", "tag", "form"],
)
def test_the_reason_for_a_refusal_is_named(stored: str, reason: str) -> None:
    with pytest.raises(EnvelopeError, match=reason):
        TENANT.open(stored, IDENTITY)
