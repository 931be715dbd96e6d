"""The message that brings a machine one thing it should hold: sealed, signed, revisioned.

    header = LP("aura-push/v1", instance_id, recipient_kid, connection_id, op, revision,
                issued_at, signer_kid)
    sealed = HPKE(X25519, HKDF-SHA256, AES-256-GCM, info=header)
    sig    = Ed25519("aura-push-sig/v1" || header || sealed)

A bearer token alone would let its thief inject credentials, an HMAC leaves the content readable by
every proxy on the way, and mutual TLS ends at the reverse proxy and protects nothing on disk. This
message needs no trust in what carries or stores it, so the machine keeps it as it came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aura_core.encoding import b64url, lp
from aura_core.errors import (
    MalformedMessage,
    MessageTooLarge,
    RevisionConflict,
    SignatureInvalid,
    StaleRevision,
    WrongRecipient,
)
from aura_core.wire._fields import (
    MAX_MESSAGE_BYTES,
    check_kid,
    check_millis,
    check_subject,
    exactly,
    key_id,
    read_bytes,
    read_message,
)
from aura_core.wire._keys import (
    SIGNATURE_BYTES,
    ControlKeys,
    VmKeys,
    check_signature,
    hpke_seal,
)

__all__ = ["Op", "Push", "PushHeader", "next_revision", "parse_push", "push_digest", "seal_push"]

Op = Literal["put", "delete"]

_SIGNATURE_DOMAIN = b"aura-push-sig/v1"
_HEADER_ORDER = (
    "instance_id",
    "recipient_kid",
    "connection_id",
    "op",
    "revision",
    "issued_at",
    "signer_kid",
)
_HEADER_FIELDS = frozenset(_HEADER_ORDER)
_MESSAGE_FIELDS = frozenset({"header", "sealed", "sig"})


@dataclass(frozen=True, kw_only=True, slots=True)
class PushHeader:
    """Who gets what, in which revision, signed by whom.

    `connection_id` is the subject: a connection's id, `policy`, or `skill:<folder>`. `revision`
    orders the messages of one subject (`next_revision`); `issued_at` is milliseconds since 1970 and
    informs only: the revision, not a clock, stops replay. Raises `MalformedMessage`.
    """

    instance_id: str
    recipient_kid: str
    connection_id: str
    op: Op
    revision: int
    issued_at: int
    signer_kid: str

    def __post_init__(self) -> None:
        check_subject("instance_id", self.instance_id)
        check_kid("recipient_kid", self.recipient_kid)
        check_subject("connection_id", self.connection_id)
        if self.op not in ("put", "delete"):
            raise MalformedMessage("op is neither put nor delete.")
        check_millis("revision", self.revision, least=1)
        check_millis("issued_at", self.issued_at)
        check_kid("signer_kid", self.signer_kid)

    def lp(self) -> bytes:
        """The bytes that are authenticated by the seal and by the signature."""
        return lp("aura-push/v1", *(getattr(self, name) for name in _HEADER_ORDER))


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """A parsed message of which nothing is believed yet.

    Call `verify`, `check_recipient`, `check_revision`, `open` in this order: what is unsigned must
    not get an answer that depends on the machine's state, and what will not be stored need not be
    opened.
    """

    header: PushHeader
    sealed: bytes = field(repr=False)
    sig: bytes = field(repr=False)
    header_lp: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over the header's bytes and the sealed part, in hex.

        Sealing is randomised, so one message is one digest: the same revision with another digest
        is another message.
        """
        return hashlib.sha256(self.header_lp + self.sealed).hexdigest()

    def verify(self, control_public_keys: Mapping[str, bytes]) -> None:
        """Check that one of the control plane's keys signed this. Raises `SignatureInvalid`."""
        public = control_public_keys.get(self.header.signer_kid)
        if public is None:
            raise SignatureInvalid(
                "The message is signed by a key that this machine does not know."
            )
        signed = _SIGNATURE_DOMAIN + self.header_lp + self.sealed
        check_signature(public, self.sig, signed, what="the message")

    def check_recipient(self, instance_id: str, kid: str) -> None:
        """Check that this is for the machine, and for its present key. Raises `WrongRecipient`."""
        if self.header.instance_id != instance_id:
            raise WrongRecipient("The message is for another instance.")
        if self.header.recipient_kid != kid:
            raise WrongRecipient("The message is sealed to another key than this machine's.")

    def check_revision(self, *, stored: int | None, stored_digest: str | None) -> bool:
        """Compare with what the machine holds of the subject; tombstones count as held.

        True: newer, apply it. False: the very message that is stored, answer without writing.
        Raises `StaleRevision` for an older one, and `RevisionConflict` for another message of the
        same revision, which only happens where two writers or an attacker are at work.
        """
        if stored is None or self.header.revision > stored:
            return True
        if self.header.revision < stored:
            raise StaleRevision("A newer revision is stored already.", stored=stored)
        if self.digest != stored_digest:
            raise RevisionConflict("Another message of this revision is stored.", stored=stored)
        return False

    def open(self, keys: VmKeys) -> bytes:
        """The plaintext. Raises `EnvelopeError`."""
        return keys.open(self.sealed, self.header_lp)


def seal_push(
    header: PushHeader, plaintext: bytes, *, recipient_public: bytes, signer: ControlKeys
) -> bytes:
    """Seal `plaintext` (for a delete: nothing) and sign; the message as JSON bytes.

    Two calls give two different messages, so the caller stores the first and sends it again as it
    is. Raises `MessageTooLarge` where the result exceeds `MAX_MESSAGE_BYTES`, `MalformedMessage`
    for an unusable recipient key, and `WrongRecipient` or `SignatureInvalid` where `header` names
    other keys than the given ones.
    """
    if header.recipient_kid != key_id(recipient_public):
        raise WrongRecipient("The header names another key than the message is to be sealed to.")
    if header.signer_kid != signer.signer_kid:
        raise SignatureInvalid(
            "The header names another key than the message is to be signed with."
        )
    header_lp = header.lp()
    sealed = hpke_seal(plaintext, public=recipient_public, info=header_lp)
    sig = signer.sign(_SIGNATURE_DOMAIN + header_lp + sealed)
    values = {name: getattr(header, name) for name in _HEADER_ORDER}
    document = {"header": values, "sealed": b64url(sealed), "sig": b64url(sig)}
    message = json.dumps(document, separators=(",", ":")).encode()
    if len(message) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"{header.connection_id} does not fit into a message of {MAX_MESSAGE_BYTES} bytes."
        )
    return message


def parse_push(raw: bytes) -> Push:
    """Read a message strictly. Raises `MessageTooLarge` and `MalformedMessage`."""
    document = read_message("The message", raw)
    exactly("The message", document, _MESSAGE_FIELDS)
    values = document["header"]
    if not isinstance(values, dict):
        raise MalformedMessage("The message's header is not an object.")
    exactly("The message's header", values, _HEADER_FIELDS)
    header = PushHeader(**values)
    return Push(
        header=header,
        sealed=read_bytes("sealed", document["sealed"]),
        sig=read_bytes("sig", document["sig"], length=SIGNATURE_BYTES),
        header_lp=header.lp(),
    )


def push_digest(message: bytes) -> str:
    """The digest of a message as it is stored and sent (see `Push.digest`)."""
    return parse_push(message).digest


def next_revision(previous: int | None, *, now_ms: int) -> int:
    """The revision after `previous`: the clock where it moves forward, else one more.

    So revisions never fall, even where a clock is set back or a database is restored.
    """
    return now_ms if previous is None else max(previous + 1, now_ms)
