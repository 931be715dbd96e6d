"""The formats written a second time, from the documents and not from `aura_core`.

HKDF and HPKE are spelled out on the bare primitives (RFC 5869, RFC 9180), with a fixed ephemeral
key and a fixed nonce, so the generator always makes the same vectors. What the two
implementations agree on is the format; what only one of them does is a bug.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEM_SUITE = b"KEM" + (0x0020).to_bytes(2, "big")
_HPKE_SUITE = b"HPKE" + b"".join(part.to_bytes(2, "big") for part in (0x0020, 0x0001, 0x0002))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().replace("=", "")


def compact(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def lp(*fields: bytes | str | int) -> bytes:
    joined = b""
    for field in fields:
        data = field if isinstance(field, bytes) else str(field).encode()
        joined += len(data).to_bytes(4, "big") + data
    return joined


def kid_of(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    okm, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        okm += block
    return okm[:length]


def tenant_key(material: bytes, *, salt: bytes, kid: str, tenant_id: str) -> tuple[bytes, bytes]:
    """The encryption key and its commitment."""
    info = lp("aura/tenant-key/v1", kid, tenant_id)
    okm = hkdf_expand(hkdf_extract(salt, material), info, 64)
    return okm[:32], okm[32:]


def envelope(
    key: bytes, plaintext: bytes, *, iv: bytes, kid: str, identity: tuple[str, str, str, int]
) -> str:
    aad = lp("aura/credential/v1", 1, kid, *identity)
    sealed = AESGCM(key).encrypt(iv, plaintext, aad)
    parts = {"iv": b64(iv), "ct": b64(sealed[:-16]), "tag": b64(sealed[-16:])}
    return compact({"v": 1, "kid": kid} | parts)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hkdf_extract(salt, b"HPKE-v1" + suite + label + ikm)


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return hkdf_expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def hpke_schedule(
    dh: bytes, enc: bytes, recipient: bytes, info: bytes, *, suite: bytes = _HPKE_SUITE
) -> tuple[bytes, bytes]:
    """Key and base nonce of base mode (RFC 9180 §4.1, §5.1) for a 32-byte AEAD key."""
    eae_prk = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", dh)
    shared = _labeled_expand(_KEM_SUITE, eae_prk, b"shared_secret", enc + recipient, 32)
    psk_id_hash = _labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(suite, b"", b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = _labeled_extract(suite, shared, b"secret", b"")
    return (
        _labeled_expand(suite, secret, b"key", context, 32),
        _labeled_expand(suite, secret, b"base_nonce", context, 12),
    )


def hpke_seal(plaintext: bytes, *, recipient: bytes, ephemeral: bytes, info: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    dh = private.exchange(X25519PublicKey.from_public_bytes(recipient))
    key, nonce = hpke_schedule(dh, enc, recipient, info)
    return enc + AESGCM(key).encrypt(nonce, plaintext, b"")


def hpke_open(sealed: bytes, *, private: bytes, info: bytes) -> bytes:
    own = X25519PrivateKey.from_private_bytes(private)
    enc, ciphertext = sealed[:32], sealed[32:]
    dh = own.exchange(X25519PublicKey.from_public_bytes(enc))
    key, nonce = hpke_schedule(dh, enc, own.public_key().public_bytes_raw(), info)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def sign(private: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def ed25519_public(private: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
