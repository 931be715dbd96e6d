"""Authentication of plain HTTP requests: the machine's by signature, the gateway's by token."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from aura_core.encoding import b64url, lp
from aura_core.errors import BearerRejected, MalformedMessage, SignatureInvalid
from aura_core.wire._fields import check_millis, check_subject, read_bytes
from aura_core.wire._keys import SIGNATURE_BYTES, VmKeys, check_signature

__all__ = ["check_bearer", "claimed_instance", "sign_request", "verify_request"]

INSTANCE_HEADER = "Aura-Instance"
ISSUED_HEADER = "Aura-Issued-At"
SIGNATURE_HEADER = "Aura-Signature"

_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


def sign_request(
    keys: VmKeys, *, method: str, path: str, instance_id: str, issued_at: int, body: bytes
) -> dict[str, str]:
    """The three headers that authenticate a request.

    `path` includes the query as it is sent. `issued_at` is milliseconds since 1970. Raises
    `MalformedMessage`.
    """
    check_subject("instance_id", instance_id)
    check_millis("issued_at", issued_at)
    signed = _signed(method, path, instance_id, issued_at, body)
    return {
        INSTANCE_HEADER: instance_id,
        ISSUED_HEADER: str(issued_at),
        SIGNATURE_HEADER: b64url(keys.sign(signed)),
    }


def claimed_instance(headers: Mapping[str, str]) -> str:
    """The instance that a request says it is from: to look up its public key, nothing more.

    Raises `SignatureInvalid` where the request is unsigned, `MalformedMessage` where it is no id.
    """
    instance_id = _header(headers, INSTANCE_HEADER)
    check_subject(INSTANCE_HEADER, instance_id)
    return instance_id


def verify_request(
    headers: Mapping[str, str],
    method: str,
    path: str,
    body: bytes,
    public: bytes,
    now_ms: int,
    max_skew_ms: int = 300_000,
) -> str:
    """Check a request against the public signing key of the instance that it claims; its id.

    Raises `MalformedMessage` for headers in another form and `SignatureInvalid` for everything
    else. A request can be repeated within `max_skew_ms` by whoever records it: the endpoints that
    use this are level-triggered, so that a repeated request changes nothing.
    """
    instance_id = claimed_instance(headers)
    issued = _header(headers, ISSUED_HEADER)
    if not _WHOLE_NUMBER.fullmatch(issued):
        raise MalformedMessage(f"{ISSUED_HEADER} is not a whole number of milliseconds.")
    issued_at = int(issued)
    encoded = _header(headers, SIGNATURE_HEADER)
    sig = read_bytes(SIGNATURE_HEADER, encoded, length=SIGNATURE_BYTES)
    signed = _signed(method, path, instance_id, issued_at, body)
    check_signature(public, sig, signed, what="the request")
    # After the signature, so that the answer about clocks goes to the machine alone.
    if abs(now_ms - issued_at) > max_skew_ms:
        raise SignatureInvalid(
            f"The request was signed {abs(now_ms - issued_at) // 1000} s away from now.",
            hint="Check the machine's clock.",
        )
    return instance_id


def check_bearer(authorization: str | None, *, token: str) -> None:
    """Compare an Authorization header with the token (RFC 6750 §2.1), in constant time.

    Both are hashed first, so that not even the token's length shows. Raises `BearerRejected`.
    """
    scheme, _, given = (authorization or "").partition(" ")
    same = hmac.compare_digest(_digest(given), _digest(token))
    if scheme.lower() != "bearer" or not given or not same:
        raise BearerRejected("The bearer token is missing or not this machine's.")


def _signed(method: str, path: str, instance_id: str, issued_at: int, body: bytes) -> bytes:
    if not path.isascii():
        raise MalformedMessage("The path is not percent-encoded.")
    return lp("aura-request/v1", instance_id, method.upper(), path, issued_at, _sha256(body))


def _header(headers: Mapping[str, str], name: str) -> str:
    """Header names are case-insensitive (RFC 9110 §5.1); a plain dict's keys are not."""
    found = [value for key, value in headers.items() if key.lower() == name.lower()]
    if len(found) != 1:
        raise SignatureInvalid(f"The request is not signed: it needs one {name} header.")
    return found[0]


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _digest(text: str) -> bytes:
    # A server may decode a header's foreign bytes as lone surrogates, which UTF-8 does not take.
    return _sha256(text.encode("utf-8", "surrogatepass"))
