"""Fifty thousand envelopes that are not what the caller asks for: none of them opens."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import pytest

from aura_core.crypto import Identity, Keyring, MasterKey, TenantKeys
from aura_core.encoding import b64url, unb64url
from aura_core.errors import EnvelopeError, KeyMissing

COUNT = 50_000
_FRESH = iter(range(10**6))


def ring(*keys: tuple[str, bytes, bool]) -> Keyring:
    return Keyring(
        MasterKey(kid=kid, material=material, state="active" if active else "decrypt_only")
        for kid, material, active in keys
    )


OLD, NEW = b"o" * 32, b"n" * 32
BEFORE = ring(("m1", OLD, True))
AFTER = ring(("m1", OLD, False), ("m2", NEW, True))
SALTS = {"t1": bytes(range(32)), "t2": bytes(range(1, 33))}
IDENTITIES = [
    Identity(tenant_id=tenant, connection_id=f"c{number}", field=field, revision=revision)
    for tenant, number, field, revision in product(
        SALTS, range(40), ("access_token", "refresh_token"), (7, 8, 1_750_000_000_000)
    )
]


def keys(of: Keyring, tenant_id: str) -> TenantKeys:
    return of.tenant(tenant_id, SALTS[tenant_id])


def sealed() -> list[tuple[Identity, str]]:
    return [
        (identity, keys(of, identity.tenant_id).seal(b'{"access_token": "s3cret"}', identity))
        for identity in IDENTITIES
        for of in (BEFORE, AFTER)
    ]


def _other(dice: random.Random, identity: Identity, name: str) -> Identity:
    while True:
        other = getattr(dice.choice(IDENTITIES), name)
        if other != getattr(identity, name):
            return replace(identity, **{name: other})


def _flip(dice: random.Random, document: dict[str, object], member: str) -> None:
    raw = bytearray(unb64url(str(document[member])))
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    document[member] = b64url(bytes(raw))


def _cut(dice: random.Random, document: dict[str, object], member: str) -> None:
    raw = unb64url(str(document[member]))
    longer = raw + dice.randbytes(dice.randint(1, 20))
    shorter = raw[: dice.randrange(len(raw))]
    document[member] = b64url(dice.choice([longer, shorter]))


Change = Callable[[random.Random, dict[str, object]], object]
OF_THE_TEXT: dict[str, Change] = {
    **{f"{m} flipped": partial(_flip, member=m) for m in ("iv", "ct", "tag")},
    **{f"{m} of another length": partial(_cut, member=m) for m in ("iv", "ct", "tag")},
    "kid of the other key": lambda _, doc: doc.update(kid="m2" if doc["kid"] == "m1" else "m1"),
    "kid unknown": lambda d, doc: doc.update(kid=f"m{d.randint(3, 10**8)}"),
    "kid not one": lambda d, doc: doc.update(kid=d.choice(["", "m0", "m01", "M1", 1, None, "m1 "])),
    "version": lambda d, doc: doc.update(v=d.choice([0, 2, "1", True, None, 1.5])),
    "a member more": lambda _, doc: doc.update({f"x{next(_FRESH)}": 1}),
    "a member less": lambda d, doc: doc.pop(d.choice([*doc])),
    "a member of another type": lambda d, doc: doc.update({d.choice(["iv", "ct", "tag"]): 7}),
}
OF_THE_IDENTITY = ("tenant_id", "connection_id", "field", "revision")


def _swap(dice: random.Random, made: list[tuple[Identity, str]], kind: str) -> tuple[Identity, str]:
    """What the caller asks for, and a text that is not it."""
    identity, text = dice.choice(made)
    document = json.loads(text)
    if kind in OF_THE_IDENTITY:
        return _other(dice, identity, kind), text
    if kind == "texts exchanged":
        stranger = dice.choice([other for other in dice.sample(made, 9) if other[0] != identity])
        return identity, stranger[1]
    if kind == "tags exchanged":
        tags = [json.loads(other)["tag"] for _, other in dice.sample(made, 3)]
        document["tag"] = next(tag for tag in tags if tag != document["tag"])
    else:
        OF_THE_TEXT[kind](dice, document)
    return identity, json.dumps(document, separators=(",", ":"))


def _refusal(asked: Identity, shown: str) -> EnvelopeError | None:
    try:
        keys(AFTER, asked.tenant_id).open(shown, asked)
    except EnvelopeError as error:
        return error
    return None


def test_of_fifty_thousand_swapped_envelopes_none_opens() -> None:
    dice, made, seen = random.Random(20_26), sealed(), Counter[str]()
    kinds = [*OF_THE_IDENTITY, "tags exchanged", "texts exchanged", *OF_THE_TEXT]
    for number in range(COUNT):
        kind = kinds[number % len(kinds)]
        asked, shown = _swap(dice, made, kind)
        error = _refusal(asked, shown)
        assert error is not None, f"{kind}: {shown} opened as {asked}"
        assert type(error) is (KeyMissing if kind == "kid unknown" else EnvelopeError), kind
        assert "s3cret" not in str(error)
        seen[kind] += 1
    assert seen.total() == COUNT
    assert len(seen) == len(kinds) == 19


def test_what_was_not_swapped_opens() -> None:
    for identity, text in sealed():
        assert keys(AFTER, identity.tenant_id).open(text, identity)


def test_another_tenants_identity_is_refused_by_the_keys_themselves() -> None:
    identity, text = sealed()[0]
    stranger = replace(identity, tenant_id="t2")
    for tenant_id in SALTS:
        asked = stranger if tenant_id == "t1" else identity
        with pytest.raises(EnvelopeError):
            keys(AFTER, tenant_id).open(text, asked)
