"""How a new machine becomes known: it proves its keys and a single-use token, once.

The request is signed by the machine over everything in it, so nobody who merely sees the token in
the user-data can put other keys beside it without holding a key of their own; the control plane
binds the token to the first keys (`JoinRequest.fingerprint`) and quarantines the instance when the
same token comes with others. The answer, which holds the gateway token, is sealed to the machine's
key and signed by the control plane: opening it proves the X25519 key, as the request's signature
proves the Ed25519 one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from aura_core.encoding import b64url, load_object, lp
from aura_core.errors import (
    EnvelopeError,
    MalformedMessage,
    SignatureInvalid,
    WrongRecipient,
)
from aura_core.wire._fields import (
    check_kid,
    check_millis,
    check_subject,
    exactly,
    key_id,
    read_bytes,
    read_message,
)
from aura_core.wire._keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    ControlKeys,
    VmKeys,
    check_signature,
    fingerprint,
    hpke_seal,
)

__all__ = [
    "JoinAnswer",
    "JoinRequest",
    "make_join",
    "open_join_answer",
    "seal_join_answer",
    "verify_join",
]

_ANSWER_DOMAIN = b"aura-join-sig/v1"
_REQUEST_FIELDS = frozenset(
    {"instance_id", "join_token", "enc_public", "sig_public", "issued_at", "sig"}
)
_ANSWER_FIELDS = frozenset({"instance_id", "recipient_kid", "signer_kid", "sealed", "sig"})
_SECRET_FIELDS = frozenset({"gateway_token", "heartbeat_seconds"})
_TOKEN_CHARACTERS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRequest:
    """Who joins, with which public keys. `join_token` is a secret; the control plane hashes it.

    `issued_at` is the machine's clock (ms since 1970), which may be wrong on a first boot: the
    token's own lifetime is what limits a request. Raises `MalformedMessage`.
    """

    instance_id: str
    join_token: str = field(repr=False)
    enc_public: bytes
    sig_public: bytes
    issued_at: int

    def __post_init__(self) -> None:
        check_subject("instance_id", self.instance_id)
        _check_token("join_token", self.join_token)
        for name in ("enc_public", "sig_public"):
            if len(getattr(self, name)) != KEY_BYTES:
                raise MalformedMessage(f"{name} is not {KEY_BYTES} bytes long.")
        check_millis("issued_at", self.issued_at)

    @property
    def recipient_kid(self) -> str:
        return key_id(self.enc_public)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both public keys in hex: equal for a repeated request of one machine."""
        return fingerprint(self.enc_public, self.sig_public)

    def lp(self) -> bytes:
        return lp(
            "aura-join-request/v1",
            self.instance_id,
            self.join_token,
            self.enc_public,
            self.sig_public,
            self.issued_at,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinAnswer:
    """What a machine needs to begin: its bearer token and how often it reports, in seconds."""

    gateway_token: str = field(repr=False)
    heartbeat_seconds: int

    def __post_init__(self) -> None:
        _check_token("gateway_token", self.gateway_token)
        check_millis("heartbeat_seconds", self.heartbeat_seconds, least=1)


def make_join(keys: VmKeys, *, instance_id: str, join_token: str, issued_at: int) -> bytes:
    """The machine's signed request as JSON bytes. Raises `MalformedMessage`."""
    request = JoinRequest(
        instance_id=instance_id,
        join_token=join_token,
        enc_public=keys.enc_public,
        sig_public=keys.sig_public,
        issued_at=issued_at,
    )
    document = {
        "instance_id": instance_id,
        "join_token": join_token,
        "enc_public": b64url(keys.enc_public),
        "sig_public": b64url(keys.sig_public),
        "issued_at": issued_at,
        "sig": b64url(keys.sign(request.lp())),
    }
    return _json(document)


def verify_join(raw: bytes) -> JoinRequest:
    """Read a request and check that its sender holds the signing key that it names.

    Raises `MessageTooLarge`, `MalformedMessage` and `SignatureInvalid`. Whether the token is good
    is the caller's to decide.
    """
    document = read_message("The join request", raw)
    exactly("The join request", document, _REQUEST_FIELDS)
    request = JoinRequest(
        instance_id=document["instance_id"],
        join_token=document["join_token"],
        enc_public=read_bytes("enc_public", document["enc_public"], length=KEY_BYTES),
        sig_public=read_bytes("sig_public", document["sig_public"], length=KEY_BYTES),
        issued_at=document["issued_at"],
    )
    sig = read_bytes("sig", document["sig"], length=SIGNATURE_BYTES)
    check_signature(request.sig_public, sig, request.lp(), what="the join request")
    # A key of small order would be stored and then fail every delivery. It is refused here, while
    # the single-use token is not yet spent.
    hpke_seal(b"", public=request.enc_public, info=b"")
    return request


def seal_join_answer(answer: JoinAnswer, *, request: JoinRequest, signer: ControlKeys) -> bytes:
    """Seal the answer to the machine that asked, and sign it; JSON bytes."""
    info = _answer_info(request.instance_id, request.recipient_kid, signer.signer_kid)
    plaintext = _json(
        {
            "gateway_token": answer.gateway_token,
            "heartbeat_seconds": answer.heartbeat_seconds,
        }
    )
    sealed = hpke_seal(plaintext, public=request.enc_public, info=info)
    return _json(
        {
            "instance_id": request.instance_id,
            "recipient_kid": request.recipient_kid,
            "signer_kid": signer.signer_kid,
            "sealed": b64url(sealed),
            "sig": b64url(signer.sign(_ANSWER_DOMAIN + info + sealed)),
        }
    )


def open_join_answer(
    raw: bytes,
    *,
    instance_id: str,
    keys: VmKeys,
    control_public_keys: Mapping[str, bytes],
) -> JoinAnswer:
    """Check and open an answer, in the order of a push: form, signature, recipient, seal.

    Raises `MessageTooLarge`, `MalformedMessage`, `SignatureInvalid`, `WrongRecipient` and
    `EnvelopeError`.
    """
    document = read_message("The join answer", raw)
    exactly("The join answer", document, _ANSWER_FIELDS)
    check_subject("instance_id", document["instance_id"])
    check_kid("recipient_kid", document["recipient_kid"])
    check_kid("signer_kid", document["signer_kid"])
    sealed = read_bytes("sealed", document["sealed"])
    sig = read_bytes("sig", document["sig"], length=SIGNATURE_BYTES)
    public = control_public_keys.get(document["signer_kid"])
    if public is None:
        raise SignatureInvalid(
            "The join answer is signed by a key that this machine does not know."
        )
    info = _answer_info(document["instance_id"], document["recipient_kid"], document["signer_kid"])
    check_signature(public, sig, _ANSWER_DOMAIN + info + sealed, what="the join answer")
    if (document["instance_id"], document["recipient_kid"]) != (instance_id, keys.recipient_kid):
        raise WrongRecipient("The join answer is for another machine or another of its keys.")
    return _read_answer(keys.open(sealed, info))


def _read_answer(plaintext: bytes) -> JoinAnswer:
    try:
        document = load_object(plaintext)
        if document.keys() == _SECRET_FIELDS:
            return JoinAnswer(**document)
    except (ValueError, MalformedMessage):
        pass
    raise EnvelopeError("The opened join answer is not in the form that this machine knows.")


def _answer_info(instance_id: str, recipient_kid: str, signer_kid: str) -> bytes:
    return lp("aura-join/v1", instance_id, recipient_kid, signer_kid)


def _check_token(name: str, value: object) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _TOKEN_CHARACTERS:
        raise MalformedMessage(f"{name} is not text of 1 to {_TOKEN_CHARACTERS} characters.")
    if not value.isascii() or not value.isprintable():
        raise MalformedMessage(f"{name} has characters that do not fit into a header.")


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
