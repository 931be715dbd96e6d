"""Make the vectors: `python -m tests.vectors.generate`.

Every key and nonce is fixed (SHA-256 of its name), so this writes the same files each time and a
test holds it to that. A change of a file is a change of a format: machines in the field hold the
old one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.vectors import reference as ref

INSTANCE = "2f6c1f0a9d3b4c55a7e08d1f3c2b4a69"
ISSUED_AT = 1_767_225_600_000


def fixed(name: str, length: int = 32) -> bytes:
    return hashlib.sha256(f"aura test vector: {name}".encode()).digest()[:length]


VM_ENC, VM_SIG, CONTROL = fixed("vm enc"), fixed("vm sig"), fixed("control")
REVISION = ISSUED_AT
CONNECTION = "0d5cbb4d9a0f4f6f8f3d5f1f0e7a1c22"
CREDENTIAL = {
    "kind": "credential",
    "connection_id": CONNECTION,
    "provider": "acme",
    "connection_revision": 1,
    "fields": {"access_token": "an access token"},
    "expires_at": None,
    "scopes": ["read"],
    "binding": {
        "provider": "acme",
        "base_url": "https://api.acme.example",
        "hosts": ["api.acme.example"],
        "placements": [
            {"at": "header", "name": "Authorization", "format": "Bearer {access_token}"}
        ],
        "rules": [{"methods": ["GET"], "path": "/mail/**", "scope": "email:read"}],
    },
}
POLICY = {"kind": "policy", "scopes": ["email:read"]}
KEYS = {
    "vm": {"v": 1, "enc": ref.b64(VM_ENC), "sig": ref.b64(VM_SIG)},
    "control": {"v": 1, "sig": ref.b64(CONTROL)},
    "control_public_keys": {
        ref.kid_of(ref.ed25519_public(CONTROL)): ref.b64(ref.ed25519_public(CONTROL))
    },
}


def at_rest() -> dict[str, Any]:
    states = {"m1": "destroyed", "m2": "decrypt_only", "m3": "active"}
    material = {kid: fixed(kid) for kid in ("m2", "m3")}
    entries = [f"{kid}:{st}:{ref.b64(material.get(kid, b''))}" for kid, st in states.items()]
    salt = fixed("salt")
    cases = []
    for kid, tenant, connection, field, revision, plaintext in (
        ("m3", "t1", "c1", "access_token", 1, b"an access token"),
        ("m3", "t1", "c1", "refresh_token", 1_767_225_600_001, b"a refresh token"),
        ("m2", "t1", "c2", "access_token", 7, "schl\u00fcssel".encode()),
        ("m3", "t\u00e4nant", "c1", "api_key", 0, b""),
    ):
        key, commitment = ref.tenant_key(material[kid], salt=salt, kid=kid, tenant_id=tenant)
        identity = (tenant, connection, field, revision)
        iv = fixed(f"iv {identity}", 12)
        cases.append(
            {
                "identity": dict(
                    zip(("tenant_id", "connection_id", "field", "revision"), identity, strict=True)
                ),
                "kid": kid,
                "commitment": commitment.hex(),
                "plaintext": plaintext.hex(),
                "stored": ref.envelope(key, plaintext, iv=iv, kid=kid, identity=identity),
            }
        )
    info = ref.lp("aura/audit-key/v1", "m3", "t1")
    derived = ref.hkdf_expand(ref.hkdf_extract(salt, material["m3"]), info, 32)
    return {
        "keyring": "\n".join(entries) + "\n",
        "salt": salt.hex(),
        "cases": cases,
        "derived": {"label": "aura/audit-key/v1", "tenant_id": "t1", "key": derived.hex()},
    }


def push() -> dict[str, Any]:
    recipient = ref.x25519_public(VM_ENC)
    cases = []
    for subject, op, revision, plaintext in (
        (CONNECTION, "put", REVISION, ref.compact(CREDENTIAL).encode()),
        ("policy", "put", REVISION, ref.compact(POLICY).encode()),
        ("skill:google-workspace-skill", "delete", 2**53 - 1, b""),
    ):
        header: dict[str, str | int] = {
            "instance_id": INSTANCE,
            "recipient_kid": ref.kid_of(recipient),
            "connection_id": subject,
            "op": op,
            "revision": revision,
            "issued_at": ISSUED_AT,
            "signer_kid": ref.kid_of(ref.ed25519_public(CONTROL)),
        }
        header_lp = ref.lp("aura-push/v1", *header.values())
        ephemeral = fixed(f"ephemeral {subject}")
        sealed = ref.hpke_seal(plaintext, recipient=recipient, ephemeral=ephemeral, info=header_lp)
        sig = ref.sign(CONTROL, b"aura-push-sig/v1" + header_lp + sealed)
        cases.append(
            {
                "message": ref.compact(
                    {"header": header, "sealed": ref.b64(sealed), "sig": ref.b64(sig)}
                ),
                "header_lp": header_lp.hex(),
                "digest": hashlib.sha256(header_lp + sealed).hexdigest(),
                "plaintext": plaintext.hex(),
            }
        )
    return {"keys": KEYS, "cases": cases}


def join() -> dict[str, Any]:
    enc, sig = ref.x25519_public(VM_ENC), ref.ed25519_public(VM_SIG)
    token = ref.b64(fixed("join token"))
    signed = ref.lp("aura-join-request/v1", INSTANCE, token, enc, sig, ISSUED_AT)
    request = {
        "instance_id": INSTANCE,
        "join_token": token,
        "enc_public": ref.b64(enc),
        "sig_public": ref.b64(sig),
        "issued_at": ISSUED_AT,
        "sig": ref.b64(ref.sign(VM_SIG, signed)),
    }
    names = (INSTANCE, ref.kid_of(enc), ref.kid_of(ref.ed25519_public(CONTROL)))
    info = ref.lp("aura-join/v1", *names)
    content = {"gateway_token": ref.b64(fixed("gateway token")), "heartbeat_seconds": 30}
    sealed = ref.hpke_seal(
        ref.compact(content).encode(),
        recipient=enc,
        ephemeral=fixed("ephemeral join"),
        info=info,
    )
    answer = dict(zip(("instance_id", "recipient_kid", "signer_kid"), names, strict=True)) | {
        "sealed": ref.b64(sealed),
        "sig": ref.b64(ref.sign(CONTROL, b"aura-join-sig/v1" + info + sealed)),
    }
    return {
        "keys": KEYS,
        "request": ref.compact(request),
        "answer": ref.compact(answer),
        "content": content,
    }


def signed_by_machine() -> dict[str, Any]:
    (digest,) = (c["digest"] for c in push()["cases"] if '"policy"' in c["message"])
    ack: dict[str, str | int] = {
        "instance_id": INSTANCE,
        "connection_id": "policy",
        "revision": REVISION,
        "digest": digest,
        "applied_at": ISSUED_AT,
    }
    body = ref.compact({"issued_at": ISSUED_AT, "revisions": {"policy": REVISION}, "health": {}})
    request = ref.lp(
        "aura-request/v1",
        INSTANCE,
        "POST",
        "/vm/v1/heartbeat",
        ISSUED_AT,
        hashlib.sha256(body.encode()).digest(),
    )
    return {
        "keys": KEYS,
        "ack": ack | {"sig": ref.b64(ref.sign(VM_SIG, ref.lp("aura-ack/v1", *ack.values())))},
        "request": {
            "method": "POST",
            "path": "/vm/v1/heartbeat",
            "body": body,
            "headers": {
                "Aura-Instance": INSTANCE,
                "Aura-Issued-At": str(ISSUED_AT),
                "Aura-Signature": ref.b64(ref.sign(VM_SIG, request)),
            },
        },
    }


def documents() -> dict[str, str]:
    """File name to content."""
    made = {
        "at_rest": at_rest(),
        "push": push(),
        "join": join(),
        "signed_by_machine": signed_by_machine(),
    }
    return {
        f"{name}.json": json.dumps(document, indent=2, ensure_ascii=True) + "\n"
        for name, document in made.items()
    }


def main() -> None:
    for name, text in documents().items():
        Path(__file__).with_name(name).write_text(text)


if __name__ == "__main__":
    main()
