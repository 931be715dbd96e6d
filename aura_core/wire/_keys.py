"""The keys of both sides, and the three operations on them that messages are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from aura_core.encoding import b64url, load_object, unb64url
from aura_core.errors import (
    ConfigurationError,
    EnvelopeError,
    MalformedMessage,
    SignatureInvalid,
)
from aura_core.wire._fields import key_id

__all__ = ["ControlKeys", "VmKeys", "check_signature", "hpke_seal", "parse_public_keys"]

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class VmKeys:
    """A machine's two key pairs: X25519 to receive, Ed25519 to sign. Neither key ever leaves it."""

    __slots__ = ("_enc", "_sig", "enc_public", "recipient_kid", "sig_public")

    def __init__(self, *, enc: X25519PrivateKey, sig: Ed25519PrivateKey) -> None:
        self._enc = enc
        self._sig = sig
        self.enc_public = enc.public_key().public_bytes_raw()
        self.sig_public = sig.public_key().public_bytes_raw()
        self.recipient_kid = key_id(self.enc_public)

    def __repr__(self) -> str:
        return f"VmKeys(recipient_kid={self.recipient_kid!r})"

    @classmethod
    def generate(cls) -> VmKeys:
        return cls(enc=X25519PrivateKey.generate(), sig=Ed25519PrivateKey.generate())

    def dump(self) -> bytes:
        """Both private keys as JSON, for a file that only the daemon can read."""
        return _dump(enc=self._enc.private_bytes_raw(), sig=self._sig.private_bytes_raw())

    @classmethod
    def load(cls, raw: bytes) -> VmKeys:
        """Read what `dump` wrote. Raises `ConfigurationError`, without any of the content."""
        enc, sig = _load("the machine's keys", raw, "enc", "sig")
        return cls(
            enc=X25519PrivateKey.from_private_bytes(enc),
            sig=Ed25519PrivateKey.from_private_bytes(sig),
        )

    def sign(self, message: bytes) -> bytes:
        return self._sig.sign(message)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Open HPKE. Raises `EnvelopeError`."""
        try:
            return _SUITE.decrypt(sealed, self._enc, info)
        except (InvalidTag, ValueError):
            pass
        raise EnvelopeError("The sealed part does not open with this machine's key.")


class ControlKeys:
    """The control plane's Ed25519 key pair, with which everything for machines is signed."""

    __slots__ = ("_sig", "sig_public", "signer_kid")

    def __init__(self, *, sig: Ed25519PrivateKey) -> None:
        self._sig = sig
        self.sig_public = sig.public_key().public_bytes_raw()
        self.signer_kid = key_id(self.sig_public)

    def __repr__(self) -> str:
        return f"ControlKeys(signer_kid={self.signer_kid!r})"

    @classmethod
    def generate(cls) -> ControlKeys:
        return cls(sig=Ed25519PrivateKey.generate())

    def dump(self) -> bytes:
        """The private key as JSON. It is stored sealed or in a file of the control plane's own."""
        return _dump(sig=self._sig.private_bytes_raw())

    @classmethod
    def load(cls, raw: bytes) -> ControlKeys:
        """Read what `dump` wrote. Raises `ConfigurationError`, without any of the content."""
        (sig,) = _load("the control plane's key", raw, "sig")
        return cls(sig=Ed25519PrivateKey.from_private_bytes(sig))

    def sign(self, message: bytes) -> bytes:
        return self._sig.sign(message)


def parse_public_keys(keys: Mapping[str, str]) -> dict[str, bytes]:
    """The control plane's public keys as a machine is configured with: key id to base64url.

    An id that is not its key's own is refused: it would let a key stand in for another. Raises
    `ConfigurationError`.
    """
    parsed: dict[str, bytes] = {}
    for kid, text in keys.items():
        try:
            public = unb64url(text, length=KEY_BYTES)
        except ValueError as error:
            raise ConfigurationError(f"A control plane public key {error}.") from None
        if key_id(public) != kid:
            raise ConfigurationError("A control plane public key is listed under another key's id.")
        parsed[kid] = public
    if not parsed:
        raise ConfigurationError("No control plane public key is configured.")
    return parsed


def hpke_seal(plaintext: bytes, *, public: bytes, info: bytes) -> bytes:
    """Seal to `public` by HPKE base mode (RFC 9180 §6.1): 32-byte encapsulation, then ciphertext.

    The suite is DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, with empty additional data.
    Raises `MalformedMessage` for a key of small order, which would agree on a known secret.
    """
    try:
        return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info)
    except ValueError:
        pass
    raise MalformedMessage("The recipient's key is not a usable X25519 public key.")


def check_signature(public: bytes, signature: bytes, message: bytes, *, what: str) -> None:
    """Check Ed25519 (RFC 8032). Raises `SignatureInvalid`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        return
    except (InvalidSignature, ValueError):
        pass
    raise SignatureInvalid(f"The signature of {what} does not verify.")


def fingerprint(*publics: bytes) -> str:
    """SHA-256 over public keys of fixed length, in hex."""
    return hashlib.sha256(b"".join(publics)).hexdigest()


def _dump(**secrets: bytes) -> bytes:
    document = {"v": 1} | {name: b64url(secret) for name, secret in secrets.items()}
    return json.dumps(document, separators=(",", ":")).encode()


def _load(what: str, raw: bytes, *names: str) -> list[bytes]:
    try:
        document = load_object(raw)
        if document.keys() == {"v", *names} and document["v"] == 1:
            return [unb64url(document[name], length=KEY_BYTES) for name in names]
    except ValueError:
        pass
    raise ConfigurationError(f"The file with {what} is damaged or of another version.")
