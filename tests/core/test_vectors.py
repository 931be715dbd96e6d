"""The recorded vectors: both implementations agree, and the files are what the generator makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aura_core.crypto import Identity, Keyring, envelope_kid
from aura_core.wire import (
    ControlKeys,
    VmKeys,
    make_join,
    open_join_answer,
    parse_public_keys,
    parse_push,
    push_digest,
    sign_ack,
    sign_request,
    verify_ack,
    verify_join,
    verify_request,
)
from tests.vectors import generate

HERE = Path(generate.__file__).parent


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return document


def vm_keys(document: dict[str, Any]) -> VmKeys:
    return VmKeys.load(json.dumps(document["keys"]["vm"]).encode())


@pytest.mark.parametrize("name", sorted(generate.documents()))
def test_the_files_are_what_the_generator_makes(name: str) -> None:
    assert (HERE / name).read_text() == generate.documents()[name]


def test_at_rest() -> None:
    document = load("at_rest")
    ring, salt = Keyring.parse(document["keyring"]), bytes.fromhex(document["salt"])
    for case in document["cases"]:
        identity = Identity(**case["identity"])
        tenant = ring.tenant(identity.tenant_id, salt)
        assert tenant.commitments[case["kid"]].hex() == case["commitment"]
        assert envelope_kid(case["stored"]) == case["kid"]
        assert tenant.open(case["stored"], identity).hex() == case["plaintext"]
    derived = document["derived"]
    assert ring.derive(derived["label"], derived["tenant_id"], salt).hex() == derived["key"]


def test_push() -> None:
    document = load("push")
    keys = vm_keys(document)
    control = parse_public_keys(document["keys"]["control_public_keys"])
    for case in document["cases"]:
        push = parse_push(case["message"].encode())
        push.verify(control)
        push.check_recipient(generate.INSTANCE, keys.recipient_kid)
        assert push.header_lp.hex() == case["header_lp"]
        assert push.digest == push_digest(case["message"].encode()) == case["digest"]
        assert push.open(keys).hex() == case["plaintext"]


def test_join() -> None:
    document = load("join")
    keys = vm_keys(document)
    request = verify_join(document["request"].encode())
    assert request.recipient_kid == keys.recipient_kid
    made = make_join(
        keys,
        instance_id=request.instance_id,
        join_token=request.join_token,
        issued_at=request.issued_at,
    )
    assert made.decode() == document["request"]
    answer = open_join_answer(
        document["answer"].encode(),
        instance_id=generate.INSTANCE,
        keys=keys,
        control_public_keys=parse_public_keys(document["keys"]["control_public_keys"]),
    )
    assert answer.gateway_token == document["content"]["gateway_token"]
    assert answer.heartbeat_seconds == document["content"]["heartbeat_seconds"]


def test_what_the_machine_signs() -> None:
    document = load("signed_by_machine")
    keys = vm_keys(document)
    assert sign_ack(verify_ack(document["ack"], keys.sig_public), keys) == document["ack"]
    request = document["request"]
    method, path, body = request["method"], request["path"], request["body"].encode()
    verified = verify_request(
        request["headers"], method, path, body, keys.sig_public, generate.ISSUED_AT
    )
    assert verified == generate.INSTANCE
    signed = sign_request(
        keys,
        method=method,
        path=path,
        instance_id=generate.INSTANCE,
        issued_at=generate.ISSUED_AT,
        body=body,
    )
    assert signed == request["headers"]


def test_the_control_planes_key() -> None:
    keys = load("push")["keys"]
    control = ControlKeys.load(json.dumps(keys["control"]).encode())
    public = parse_public_keys(keys["control_public_keys"])
    assert public == {control.signer_kid: control.sig_public}
