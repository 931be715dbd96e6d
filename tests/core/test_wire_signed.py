"""What a machine signs outright, acknowledgements and requests, and the bearer token."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import pytest

from aura_core.encoding import b64url
from aura_core.errors import BearerRejected, MalformedMessage, SignatureInvalid
from aura_core.wire import (
    Ack,
    VmKeys,
    check_bearer,
    claimed_instance,
    sign_ack,
    sign_request,
    verify_ack,
    verify_request,
)

NOW = 1_767_225_600_000
VM, OTHER_VM = VmKeys.generate(), VmKeys.generate()
ACK = Ack(
    instance_id="i1",
    connection_id="skill:google-workspace-skill",
    revision=NOW,
    digest=sha256(b"a message").hexdigest(),
    applied_at=NOW,
)
BODY = b'{"subjects":{}}'
PATH = "/vm/v1/heartbeat?full=1"


def headers(**changes: Any) -> dict[str, str]:
    values: dict[str, Any] = {
        "method": "POST",
        "path": PATH,
        "instance_id": "i1",
        "issued_at": NOW,
        "body": BODY,
    }
    return sign_request(VM, **(values | changes))


def verify(sent: dict[str, str], **changes: Any) -> str:
    values: dict[str, Any] = {
        "method": "POST",
        "path": PATH,
        "body": BODY,
        "public": VM.sig_public,
        "now_ms": NOW,
    }
    return verify_request(sent, **(values | changes))


def test_an_acknowledgement_arrives() -> None:
    document = json.loads(json.dumps(sign_ack(ACK, VM)))
    assert verify_ack(document, VM.sig_public) == ACK
    assert {name: document[name] for name in asdict(ACK)} == asdict(ACK)


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_id": "i2"},
        {"connection_id": "policy"},
        {"revision": NOW + 1},
        {"digest": sha256(b"another").hexdigest()},
        {"applied_at": NOW - 1},
        {"sig": b64url(bytes(64))},
    ],
)
def test_an_altered_acknowledgement_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SignatureInvalid):
        verify_ack(sign_ack(ACK, VM) | changes, VM.sig_public)


def test_another_machines_acknowledgement_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        verify_ack(sign_ack(ACK, VM), OTHER_VM.sig_public)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"revision": 0},
        {"revision": "1"},
        {"digest": "AB" * 32},
        {"digest": "0" * 63},
        {"digest": None},
        {"applied_at": True},
        {"connection_id": "a/b"},
        {"sig": "AAAA"},
        {"sig": 5},
    ],
)
def test_only_the_one_form_of_an_acknowledgement_is_read(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        verify_ack(sign_ack(ACK, VM) | changes, VM.sig_public)
    with pytest.raises(MalformedMessage):
        verify_ack(asdict(ACK), VM.sig_public)


def test_a_signed_request_arrives() -> None:
    assert verify(headers()) == "i1"
    lowered = {name.lower(): value for name, value in headers().items()}
    assert verify(lowered | {"accept": "*/*"}) == claimed_instance(lowered) == "i1"
    assert verify(headers(method="post"), method="POST") == "i1"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"path": "/vm/v1/heartbeat"},
        {"path": "/vm/v1/pull?full=1"},
        {"body": BODY + b" "},
        {"body": b""},
        {"public": OTHER_VM.sig_public},
    ],
)
def test_a_signature_is_for_one_request_only(changes: dict[str, object]) -> None:
    with pytest.raises(SignatureInvalid, match="does not verify"):
        verify(headers(), **changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Aura-Instance", "i2"),
        ("Aura-Issued-At", str(NOW + 1)),
        ("Aura-Signature", b64url(bytes(64))),
    ],
)
def test_an_altered_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(SignatureInvalid, match="does not verify"):
        verify(headers() | {name: value})


@pytest.mark.parametrize("name", ["Aura-Instance", "Aura-Issued-At", "Aura-Signature"])
def test_an_unsigned_or_ambiguous_request_is_refused(name: str) -> None:
    without = {key: value for key, value in headers().items() if key != name}
    with pytest.raises(SignatureInvalid, match="not signed"):
        verify(without)
    with pytest.raises(SignatureInvalid, match="not signed"):
        verify(headers() | {name.lower(): "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Aura-Instance", "../x"),
        ("Aura-Instance", ""),
        ("Aura-Issued-At", "1e3"),
        ("Aura-Issued-At", f"0{NOW}"),
        ("Aura-Issued-At", "١٢"),
        ("Aura-Issued-At", "-1"),
        ("Aura-Issued-At", ""),
        ("Aura-Signature", "AAAA"),
        ("Aura-Signature", "\udcff"),
    ],
)
def test_only_the_one_form_of_a_header_is_read(name: str, value: str) -> None:
    with pytest.raises(MalformedMessage):
        verify(headers() | {name: value})


def test_a_path_is_signed_as_it_is_sent() -> None:
    with pytest.raises(MalformedMessage, match="percent-encoded"):
        headers(path="/vm/v1/é")
    with pytest.raises(MalformedMessage, match="percent-encoded"):
        verify(headers(), path="/vm/v1/\udcff")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_old_or_a_coming_request_is_refused(sign: int) -> None:
    assert verify(headers(), now_ms=NOW + sign * 300_000) == "i1"
    with pytest.raises(SignatureInvalid) as caught:
        verify(headers(), now_ms=NOW + sign * 300_001)
    assert caught.value.hint == "Check the machine's clock."
    with pytest.raises(SignatureInvalid):
        verify(headers(), now_ms=NOW + sign * 1_001, max_skew_ms=1_000)


def test_a_request_and_an_acknowledgement_do_not_pass_for_each_other() -> None:
    signature = headers()["Aura-Signature"]
    with pytest.raises(SignatureInvalid):
        verify_ack(sign_ack(ACK, VM) | {"sig": signature}, VM.sig_public)


def test_a_value_checks_itself() -> None:
    with pytest.raises(MalformedMessage):
        replace(ACK, revision=-1)
    with pytest.raises(MalformedMessage):
        headers(issued_at=-1)
    with pytest.raises(MalformedMessage):
        headers(instance_id="a b")


def test_the_bearer_token_is_accepted() -> None:
    check_bearer("Bearer open-sesame", token="open-sesame")
    check_bearer("bearer open-sesame", token="open-sesame")


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer open-sesam",
        "Bearer open-sesame ",
        "Bearer  open-sesame",
        "Basic open-sesame",
        "open-sesame",
        "Bearer \udcff",
    ],
)
def test_another_bearer_token_is_rejected(given: str | None) -> None:
    with pytest.raises(BearerRejected) as caught:
        check_bearer(given, token="open-sesame")
    assert "sesam" not in str(caught.value)


def test_an_empty_token_lets_nobody_in() -> None:
    for given in (None, "Bearer", "Bearer "):
        with pytest.raises(BearerRejected):
            check_bearer(given, token="")
