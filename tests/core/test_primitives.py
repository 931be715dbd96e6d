"""The primitives against published vectors (the distribution `cryptography-vectors`).

They are the library's own, so what is checked is that Aura asks for the right ones: the suite, the
empty additional data, the lengths, the order of ciphertext and tag.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aura_core.wire import ControlKeys, VmKeys
from aura_core.wire._keys import check_signature, hpke_seal
from tests.vectors import reference

VECTORS = Path(cryptography_vectors.__file__).parent


def blocks(path: str) -> Iterator[dict[str, str]]:
    """The cases of a NIST or RFC response file; each begins with its count.

    A bracketed setting holds for all cases below it.
    """
    settings: dict[str, str] = {}
    case: dict[str, str] = {}
    for line in (VECTORS / path).read_text().splitlines():
        name, _, value = (part.strip() for part in line.strip("[]").partition("="))
        if line.startswith("["):
            settings[name] = value
        elif name.lower() == "count":
            yield case
            case = dict(settings)
        elif name:
            case[name] = value
    yield case


def test_hkdf_sha256_rfc_5869() -> None:
    cases = [case for case in blocks("KDF/rfc-5869-HKDF-SHA256.txt") if "OKM" in case]
    for case in cases:
        ikm, salt, info, okm = (bytes.fromhex(case[k]) for k in ("IKM", "salt", "info", "OKM"))
        hkdf = HKDF(algorithm=SHA256(), length=len(okm), salt=salt or None, info=info)
        assert hkdf.derive(ikm) == okm
        prk = reference.hkdf_extract(salt, ikm)
        assert reference.hkdf_expand(prk, info, len(okm)) == okm
    assert len(cases) >= 2


def test_aes_256_gcm_nist() -> None:
    wanted = {"IVlen": "96", "Taglen": "128", "AADlen": "160"}
    matching = (
        case
        for case in blocks("ciphers/AES/GCM/gcmDecrypt256.rsp")
        if wanted.items() <= case.items() and "Key" in case
    )
    cases = list(islice(matching, 75))
    for case in cases:
        key, iv, ct, aad, tag = (bytes.fromhex(case[k]) for k in ("Key", "IV", "CT", "AAD", "Tag"))
        if "FAIL" in case:
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(iv, ct + tag, aad)
        else:
            plaintext = bytes.fromhex(case["PT"])
            assert AESGCM(key).decrypt(iv, ct + tag, aad) == plaintext
            assert AESGCM(key).encrypt(iv, plaintext, aad) == ct + tag
    assert {"FAIL" in case for case in cases} == {True, False}


@pytest.fixture(scope="module")
def hpke_vectors() -> list[dict[str, Any]]:
    vectors = json.loads((VECTORS / "HPKE/test-vectors.json").read_text())
    return [v for v in vectors if (v["mode"], v["kem_id"], v["kdf_id"]) == (0, 0x20, 1)]


def test_the_reference_follows_rfc_9180(hpke_vectors: list[dict[str, Any]]) -> None:
    checked = set()
    for vector in hpke_vectors:
        raw = {k: bytes.fromhex(v) for k, v in vector.items() if isinstance(v, str)}
        if len(raw["key"]) != 32:
            continue
        checked.add(vector["aead_id"])
        private = X25519PrivateKey.from_private_bytes(raw["skRm"])
        dh = private.exchange(X25519PublicKey.from_public_bytes(raw["enc"]))
        suite = b"HPKE\x00\x20\x00\x01" + vector["aead_id"].to_bytes(2, "big")
        found = reference.hpke_schedule(dh, raw["enc"], raw["pkRm"], raw["info"], suite=suite)
        assert found == (raw["key"], raw["base_nonce"])
        if vector["aead_id"] != 2:
            continue
        first = {k: bytes.fromhex(v) for k, v in vector["encryptions"][0].items() if k != "seq"}
        sealed = AESGCM(found[0]).encrypt(found[1], first["pt"], first["aad"])
        assert sealed == first["ct"]
    assert 2 in checked


@pytest.mark.parametrize("size", [0, 1, 40_000])
def test_what_is_sealed_is_hpke_of_the_chosen_suite(size: int) -> None:
    plaintext, private = os.urandom(size), X25519PrivateKey.generate()
    keys = VmKeys.load(
        reference.compact(
            {
                "v": 1,
                "enc": reference.b64(private.private_bytes_raw()),
                "sig": reference.b64(os.urandom(32)),
            }
        ).encode()
    )
    sealed = hpke_seal(plaintext, public=keys.enc_public, info=b"i")
    secret = private.private_bytes_raw()
    assert reference.hpke_open(sealed, private=secret, info=b"i") == plaintext
    again = reference.hpke_seal(
        plaintext, recipient=keys.enc_public, ephemeral=os.urandom(32), info=b"i"
    )
    assert keys.open(again, b"i") == plaintext
    assert len(sealed) == len(again) == size + 48


def test_ed25519_sign_input() -> None:
    lines = (VECTORS / "asymmetric/Ed25519/sign.input").read_text().splitlines()[:32]
    for line in lines:
        private, public, message, signed = (bytes.fromhex(part) for part in line.split(":")[:4])
        seed = reference.b64(private[:32])
        keys = ControlKeys.load(reference.compact({"v": 1, "sig": seed}).encode())
        assert keys.sig_public == public
        assert keys.sign(message) == signed[:64]
        check_signature(public, signed[:64], message, what="the vector")
