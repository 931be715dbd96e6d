"""A machine's signed word that it holds a message durably."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aura_core.encoding import b64url, lp
from aura_core.errors import MalformedMessage
from aura_core.wire._fields import check_millis, check_subject, exactly, read_bytes
from aura_core.wire._keys import SIGNATURE_BYTES, VmKeys, check_signature

__all__ = ["Ack", "sign_ack", "verify_ack"]

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FIELDS = frozenset({"instance_id", "connection_id", "revision", "digest", "applied_at", "sig"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """`instance_id` holds `revision` of `connection_id`, and it is the message `digest`.

    The digest matters: a proxy that answered in the machine's place could repeat a revision, but
    it cannot sign, and a machine that holds another message of the same revision shows.
    `applied_at` is the machine's clock in milliseconds since 1970. Raises `MalformedMessage`.
    """

    instance_id: str
    connection_id: str
    revision: int
    digest: str
    applied_at: int

    def __post_init__(self) -> None:
        check_subject("instance_id", self.instance_id)
        check_subject("connection_id", self.connection_id)
        check_millis("revision", self.revision, least=1)
        if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
            raise MalformedMessage("digest is not a SHA-256 in hexadecimal.")
        check_millis("applied_at", self.applied_at)

    def lp(self) -> bytes:
        return lp(
            "aura-ack/v1",
            self.instance_id,
            self.connection_id,
            self.revision,
            self.digest,
            self.applied_at,
        )


def sign_ack(ack: Ack, keys: VmKeys) -> dict[str, Any]:
    """The acknowledgement as a JSON object."""
    return {**asdict(ack), "sig": b64url(keys.sign(ack.lp()))}


def verify_ack(document: Mapping[str, Any], vm_sig_public: bytes) -> Ack:
    """Read and check what `sign_ack` made. Raises `MalformedMessage` and `SignatureInvalid`.

    The caller compares instance, revision and digest with what it sent.
    """
    exactly("The acknowledgement", document, _FIELDS)
    ack = Ack(**{name: value for name, value in document.items() if name != "sig"})
    sig = read_bytes("sig", document["sig"], length=SIGNATURE_BYTES)
    check_signature(vm_sig_public, sig, ack.lp(), what="the acknowledgement")
    return ack
