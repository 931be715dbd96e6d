from __future__ import annotations

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.encoding import b64url
from aura_core.errors import (
    EnvelopeError,
    MalformedMessage,
    MessageTooLarge,
    RevisionConflict,
    SignatureInvalid,
    StaleRevision,
    WireError,
    WrongRecipient,
)
from aura_core.wire import (
    MAX_MESSAGE_BYTES,
    ControlKeys,
    PushHeader,
    VmKeys,
    key_id,
    next_revision,
    parse_push,
    push_digest,
    seal_push,
)

VM, OTHER_VM = VmKeys.generate(), VmKeys.generate()
CONTROL, STRANGER = ControlKeys.generate(), ControlKeys.generate()
KNOWN = {CONTROL.signer_kid: CONTROL.sig_public}
HEADER = PushHeader(
    instance_id="i1",
    recipient_kid=VM.recipient_kid,
    connection_id="c1",
    op="put",
    revision=1_767_225_600_000,
    issued_at=1_767_225_600_000,
    signer_kid=CONTROL.signer_kid,
)
PLAINTEXT = b'{"kind":"credential","token":"sesame"}'


def seal(header: PushHeader = HEADER, plaintext: bytes = PLAINTEXT) -> bytes:
    return seal_push(header, plaintext, recipient_public=VM.enc_public, signer=CONTROL)


MESSAGE = seal()


def receive(raw: bytes, *, keys: VmKeys = VM, instance_id: str = "i1") -> bytes:
    """A daemon's order, up to the plaintext."""
    push = parse_push(raw)
    push.verify(KNOWN)
    push.check_recipient(instance_id, keys.recipient_kid)
    return push.open(keys)


def altered(**changes: object) -> bytes:
    return json.dumps(json.loads(MESSAGE) | changes).encode()


def header_with(**changes: object) -> bytes:
    return altered(header=json.loads(MESSAGE)["header"] | changes)


subjects = st.one_of(
    st.just("policy"),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", fullmatch=True),
)


@settings(max_examples=50)
@given(
    st.binary(max_size=300),
    subjects,
    st.sampled_from(["put", "delete"]),
    st.integers(1, 2**53 - 1),
    st.integers(0, 2**53 - 1),
)
def test_what_was_sealed_arrives(
    plaintext: bytes, subject: str, op: Any, revision: int, issued_at: int
) -> None:
    header = replace(HEADER, connection_id=subject, op=op, revision=revision, issued_at=issued_at)
    message = seal(header, plaintext)
    assert parse_push(message).header == header
    assert receive(message) == plaintext


def test_the_form_of_a_message() -> None:
    document = json.loads(MESSAGE)
    assert set(document) == {"header", "sealed", "sig"}
    assert document["header"] == {
        "instance_id": "i1",
        "recipient_kid": sha256(VM.enc_public).hexdigest()[:16],
        "connection_id": "c1",
        "op": "put",
        "revision": 1_767_225_600_000,
        "issued_at": 1_767_225_600_000,
        "signer_kid": sha256(CONTROL.sig_public).hexdigest()[:16],
    }
    push = parse_push(MESSAGE)
    assert len(push.sealed) + len(push.sig) == len(PLAINTEXT) + 112
    assert push.digest == sha256(HEADER.lp() + push.sealed).hexdigest() == push_digest(MESSAGE)


def test_a_message_sealed_twice_is_two_messages() -> None:
    assert push_digest(seal()) != push_digest(seal())


@settings(max_examples=300)
@given(st.sampled_from(["sealed", "sig"]), st.floats(0, 1, exclude_max=True))
def test_one_flipped_bit_is_refused_for_its_signature(part: str, where: float) -> None:
    text = json.loads(MESSAGE)[part]
    data = bytearray(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    bit = int(where * len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    push = parse_push(altered(**{part: b64url(bytes(data))}))
    with pytest.raises(SignatureInvalid):
        push.verify(KNOWN)


@settings(max_examples=400)
@given(st.integers(0, 8 * len(MESSAGE) - 1))
def test_one_flipped_bit_anywhere_in_the_text_is_refused(bit: int) -> None:
    raw = bytearray(MESSAGE)
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedMessage, SignatureInvalid)):
        parse_push(bytes(raw)).verify(KNOWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_id": "i2"},
        {"recipient_kid": OTHER_VM.recipient_kid},
        {"connection_id": "c2"},
        {"op": "delete"},
        {"revision": HEADER.revision + 1},
        {"issued_at": HEADER.issued_at + 1},
        {"signer_kid": STRANGER.signer_kid},
        {"instance_id": "c1", "connection_id": "i1"},
        {"instance_id": "i", "connection_id": "1c1"},
    ],
)
def test_a_header_with_another_value_is_refused_for_its_signature(
    changes: dict[str, object],
) -> None:
    with pytest.raises(SignatureInvalid):
        parse_push(header_with(**changes)).verify(KNOWN)


@pytest.mark.parametrize("swapped", ["header", "sealed", "sig"])
def test_parts_of_two_messages_do_not_make_a_third(swapped: str) -> None:
    other = json.loads(seal(replace(HEADER, revision=HEADER.revision + 1)))
    with pytest.raises(SignatureInvalid):
        parse_push(altered(**{swapped: other[swapped]})).verify(KNOWN)


def test_a_strangers_signature_is_refused_whatever_key_it_names() -> None:
    header = replace(HEADER, signer_kid=STRANGER.signer_kid)
    message = seal_push(header, PLAINTEXT, recipient_public=VM.enc_public, signer=STRANGER)
    with pytest.raises(SignatureInvalid, match="does not know"):
        parse_push(message).verify(KNOWN)
    with pytest.raises(SignatureInvalid, match="does not verify"):
        parse_push(message).verify({STRANGER.signer_kid: CONTROL.sig_public})
    with pytest.raises(SignatureInvalid):
        parse_push(message).verify({STRANGER.signer_kid: b"not a key"})


def test_a_message_for_another_machine_is_refused() -> None:
    push = parse_push(MESSAGE)
    with pytest.raises(WrongRecipient, match="another instance"):
        push.check_recipient("i2", VM.recipient_kid)
    with pytest.raises(WrongRecipient, match="another key"):
        push.check_recipient("i1", OTHER_VM.recipient_kid)
    with pytest.raises(EnvelopeError):
        push.open(OTHER_VM)


def test_the_seal_alone_holds_the_header_too() -> None:
    """Whoever could sign could still not put another header over a sealed part."""
    for changes in ({"connection_id": "c2"}, {"revision": 1}, {"op": "delete"}):
        with pytest.raises(EnvelopeError):
            parse_push(header_with(**changes)).open(VM)
    for sealed in ("", b64url(bytes(31)), b64url(bytes(200))):
        with pytest.raises(EnvelopeError):
            parse_push(altered(sealed=sealed)).open(VM)


def test_the_order_of_revisions() -> None:
    push = parse_push(MESSAGE)
    revision = push.header.revision
    assert push.check_revision(stored=None, stored_digest=None) is True
    assert push.check_revision(stored=revision - 1, stored_digest=push.digest) is True
    assert push.check_revision(stored=revision, stored_digest=push.digest) is False
    with pytest.raises(StaleRevision) as stale:
        push.check_revision(stored=revision + 1, stored_digest=push.digest)
    assert stale.value.stored == revision + 1
    with pytest.raises(RevisionConflict) as conflict:
        push.check_revision(stored=revision, stored_digest=push_digest(seal()))
    assert conflict.value.stored == revision


@given(st.one_of(st.none(), st.integers(1, 2**52)), st.integers(1, 2**52))
def test_revisions_only_rise_and_follow_the_clock(previous: int | None, now_ms: int) -> None:
    revision = next_revision(previous, now_ms=now_ms)
    assert revision >= now_ms
    assert previous is None or revision > previous
    assert revision == now_ms or (previous is not None and revision == previous + 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        MESSAGE + b"{}",
        MESSAGE.replace(b'{"header"', b'{"sig":"","header"'),
        MESSAGE.replace(b'"op":"put"', b'"op":"put","op":"put"'),
        MESSAGE.replace(b'"revision":', b'"revision":0.'),
        altered(extra=1),
        altered(header=None),
        altered(header=[]),
        altered(sealed=None),
        altered(sealed="QR"),
        altered(sealed="QQ=="),
        altered(sig=b64url(bytes(63))),
        altered(sig=b64url(bytes(65))),
        altered(sig=urlsafe_b64encode(bytes(64)).decode()),
        json.dumps({"header": {}, "sealed": ""}).encode(),
        header_with(extra=1),
        header_with(op="patch"),
        header_with(op=["put"]),
        header_with(revision=0),
        header_with(revision=2**53),
        header_with(revision="1"),
        header_with(revision=True),
        header_with(issued_at=-1),
        header_with(issued_at=None),
        header_with(recipient_kid=VM.recipient_kid.upper() + "A"),
        header_with(recipient_kid="0" * 15),
        header_with(signer_kid=7),
        header_with(instance_id=""),
        header_with(connection_id=".hidden"),
        header_with(connection_id="../keys"),
        header_with(connection_id="a/b"),
        header_with(connection_id="a\n"),
        header_with(connection_id="é"),
        header_with(connection_id="a\x00"),
        header_with(connection_id="a" * 129),
    ],
    ids=lambda _: "form",  # the values hold fresh keys: a name must not
)
def test_only_the_one_form_is_read(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_push(raw)


@settings(max_examples=100)
@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4), st.data())
def test_a_value_of_another_kind_never_gets_past_as_another_error(
    value: object, data: st.DataObject
) -> None:
    names = [*json.loads(MESSAGE), *json.loads(MESSAGE)["header"]]
    name = data.draw(st.sampled_from(names))
    raw = altered(**{name: value}) if name in json.loads(MESSAGE) else header_with(**{name: value})
    try:
        receive(raw)
    except WireError:
        pass
    else:
        assert json.loads(raw) == json.loads(MESSAGE)


def test_the_size_is_checked_before_anything_is_read() -> None:
    limit = MAX_MESSAGE_BYTES
    with pytest.raises(MessageTooLarge):
        parse_push(b"x" * (limit + 1))
    with pytest.raises(MalformedMessage):
        parse_push(b"x" * limit)
    padded = MESSAGE + b" " * (limit - len(MESSAGE))
    assert receive(padded) == PLAINTEXT


def test_what_would_be_too_large_is_not_sent() -> None:
    room = (MAX_MESSAGE_BYTES - len(seal(plaintext=b""))) * 3 // 4
    assert len(receive(seal(plaintext=os.urandom(room)))) == room
    with pytest.raises(MessageTooLarge, match="c1 does not fit"):
        seal(plaintext=os.urandom(room + 3))


def test_a_header_that_names_other_keys_is_not_sealed() -> None:
    with pytest.raises(WrongRecipient):
        seal_push(HEADER, b"", recipient_public=OTHER_VM.enc_public, signer=CONTROL)
    with pytest.raises(SignatureInvalid):
        seal_push(HEADER, b"", recipient_public=VM.enc_public, signer=STRANGER)


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"short"])
def test_nothing_is_sealed_to_an_unusable_key(public: bytes) -> None:
    header = replace(HEADER, recipient_kid=key_id(public))
    with pytest.raises(MalformedMessage, match="not a usable"):
        seal_push(header, PLAINTEXT, recipient_public=public, signer=CONTROL)


def test_nothing_secret_shows() -> None:
    push = parse_push(MESSAGE)
    assert "sealed" not in repr(push)
    assert "sesame" not in MESSAGE.decode()
