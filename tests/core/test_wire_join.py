from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.encoding import b64url, lp
from aura_core.errors import (
    EnvelopeError,
    MalformedMessage,
    MessageTooLarge,
    SignatureInvalid,
    WrongRecipient,
)
from aura_core.wire import (
    ControlKeys,
    JoinAnswer,
    JoinRequest,
    VmKeys,
    make_join,
    open_join_answer,
    seal_join_answer,
    verify_join,
)
from aura_core.wire._keys import hpke_seal

NOW = 1_767_225_600_000
VM, OTHER_VM = VmKeys.generate(), VmKeys.generate()
CONTROL, STRANGER = ControlKeys.generate(), ControlKeys.generate()
KNOWN = {CONTROL.signer_kid: CONTROL.sig_public}
ANSWER = JoinAnswer(gateway_token="open-sesame", heartbeat_seconds=30)
REQUEST = make_join(VM, instance_id="i1", join_token="one-time-token", issued_at=NOW)


def answered(request: bytes = REQUEST, signer: ControlKeys = CONTROL) -> bytes:
    return seal_join_answer(ANSWER, request=verify_join(request), signer=signer)


def opened(raw: bytes, *, instance_id: str = "i1", keys: VmKeys = VM) -> JoinAnswer:
    return open_join_answer(raw, instance_id=instance_id, keys=keys, control_public_keys=KNOWN)


def altered(raw: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(raw) | changes).encode()


SEALED = answered()


def test_a_machine_joins() -> None:
    request = verify_join(REQUEST)
    assert request == JoinRequest(
        instance_id="i1",
        join_token="one-time-token",
        enc_public=VM.enc_public,
        sig_public=VM.sig_public,
        issued_at=NOW,
    )
    assert opened(answered()) == ANSWER


def test_a_repeated_request_is_the_same_and_other_keys_are_not() -> None:
    later = make_join(VM, instance_id="i1", join_token="one-time-token", issued_at=NOW + 9)
    other = make_join(OTHER_VM, instance_id="i1", join_token="one-time-token", issued_at=NOW)
    prints = [verify_join(raw).fingerprint for raw in (REQUEST, later, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_id": "i2"},
        {"join_token": "another-token"},
        {"enc_public": b64url(OTHER_VM.enc_public)},
        {"sig_public": b64url(OTHER_VM.sig_public)},
        {"issued_at": NOW + 1},
        {"sig": b64url(bytes(64))},
        {"instance_id": "i1one", "join_token": "-time-token"},
    ],
)
def test_an_altered_request_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SignatureInvalid):
        verify_join(altered(REQUEST, **changes))


@settings(max_examples=200)
@given(st.sampled_from([REQUEST, SEALED]), st.floats(0, 1, exclude_max=True))
def test_one_flipped_bit_anywhere_is_refused(message: bytes, where: float) -> None:
    bit = int(where * len(message) * 8)
    raw = bytearray(message)
    raw[bit // 8] ^= 1 << bit % 8
    read: Any = verify_join if message is REQUEST else opened
    with pytest.raises((MalformedMessage, SignatureInvalid)):
        read(bytes(raw))


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"instance_id": "../x"},
        {"instance_id": None},
        {"join_token": ""},
        {"join_token": "a\nb"},
        {"join_token": "é"},
        {"join_token": "t" * 513},
        {"join_token": 5},
        {"enc_public": b64url(bytes(31))},
        {"enc_public": None},
        {"sig_public": b64url(bytes(33))},
        {"issued_at": -1},
        {"issued_at": True},
        {"sig": "AAAA"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_only_the_one_form_of_a_request_is_read(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage) as caught:
        verify_join(altered(REQUEST, **changes))
    assert "one-time-token" not in str(caught.value)


@pytest.mark.parametrize("verify", [verify_join, opened])
def test_what_is_no_message_is_refused(verify: Any) -> None:
    for raw in (b"", b"[]", b"{}", REQUEST + b" {}"):
        with pytest.raises(MalformedMessage):
            verify(raw)
    with pytest.raises(MessageTooLarge):
        verify(b" " * 70_000)


def test_a_key_of_small_order_is_refused_while_the_token_is_unspent() -> None:
    point = bytes(32)
    signed = lp("aura-join-request/v1", "i1", "one-time-token", point, VM.sig_public, NOW)
    raw = altered(REQUEST, enc_public=b64url(point), sig=b64url(VM.sign(signed)))
    with pytest.raises(MalformedMessage, match="not a usable"):
        verify_join(raw)


def test_an_answer_is_only_believed_from_the_control_plane() -> None:
    with pytest.raises(SignatureInvalid, match="does not know"):
        opened(answered(signer=STRANGER))
    forged = altered(answered(signer=STRANGER), signer_kid=CONTROL.signer_kid)
    with pytest.raises(SignatureInvalid, match="does not verify"):
        opened(forged)


def test_an_answer_is_only_for_the_machine_that_asked() -> None:
    with pytest.raises(WrongRecipient):
        opened(SEALED, instance_id="i2")
    with pytest.raises(WrongRecipient):
        opened(SEALED, keys=OTHER_VM)
    for changes in ({"instance_id": "i2"}, {"recipient_kid": OTHER_VM.recipient_kid}):
        with pytest.raises(SignatureInvalid):
            opened(altered(SEALED, **changes))


def signed_answer(sealed: bytes) -> bytes:
    info = lp("aura-join/v1", "i1", VM.recipient_kid, CONTROL.signer_kid)
    sig = CONTROL.sign(b"aura-join-sig/v1" + info + sealed)
    return altered(SEALED, sealed=b64url(sealed), sig=b64url(sig))


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"{}",
        b'{"gateway_token":"t"}',
        b'{"gateway_token":"t","heartbeat_seconds":0}',
        b'{"gateway_token":"t","heartbeat_seconds":"30"}',
        b'{"gateway_token":"","heartbeat_seconds":30}',
        b'{"gateway_token":null,"heartbeat_seconds":30}',
        b'{"gateway_token":"t","heartbeat_seconds":30,"x":1}',
    ],
)
def test_an_answer_with_another_content_is_refused(plaintext: bytes) -> None:
    info = lp("aura-join/v1", "i1", VM.recipient_kid, CONTROL.signer_kid)
    raw = signed_answer(hpke_seal(plaintext, public=VM.enc_public, info=info))
    with pytest.raises(EnvelopeError, match="not in the form"):
        opened(raw)


def test_an_answer_sealed_for_another_exchange_does_not_open() -> None:
    for sealed in (b"", hpke_seal(b"{}", public=VM.enc_public, info=b"aura-push/v1")):
        with pytest.raises(EnvelopeError, match="does not open"):
            opened(signed_answer(sealed))


def test_nothing_secret_shows() -> None:
    shown = f"{verify_join(REQUEST)!r} {ANSWER!r} {SEALED!r}"
    assert "one-time-token" not in shown
    assert "open-sesame" not in shown
