"""Sealing one value at rest: AES-256-GCM bound to the identity of what it belongs to."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aura_core.encoding import b64url, load_object, lp, unb64url
from aura_core.errors import ConfigurationError, EnvelopeError, KeyMissing

__all__ = ["KID", "NONCE_LIMIT", "Identity", "TenantKeys", "envelope_digest", "envelope_kid"]

KID = re.compile(r"m[1-9][0-9]{0,8}", re.ASCII)

NONCE_LIMIT = 2**30
"""Seals under one key before it must be rotated. Nonces are 96 random bits: NIST SP 800-38D §8.3
allows 2^32 of them per key; Aura stops at a quarter, so that counts kept by several processes may
lag behind each other."""

_VERSION = 1
_WRITTEN = re.compile(
    r'\{"v":1,"kid":"(?P<kid>m[1-9][0-9]{0,8})","iv":"(?P<iv>[\w-]{16})","ct":"(?P<ct>[\w-]*)",'
    r'"tag":"(?P<tag>[\w-]{22})"\}',
    re.ASCII,
)
"""The text of an envelope, as far as its form goes."""
_FIELDS = {"v", "kid", "iv", "ct", "tag"}
_IV_BYTES = 12
_TAG_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a sealed value is: whose, of which connection, which field, which revision of it.

    The additional data of AES-GCM is built from the identity that the caller asks for and never
    from the envelope. A ciphertext that was moved to another tenant, connection, field or revision
    therefore does not open, whoever moved it. Rolling back a whole row, ciphertext and revision
    together, is not visible here: the audit log's record of `envelope_digest` shows that.
    """

    tenant_id: str
    connection_id: str
    field: str
    revision: int

    def __post_init__(self) -> None:
        for name in ("tenant_id", "connection_id", "field"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"Identity.{name} must be text that is not empty")
        if type(self.revision) is not int or self.revision < 0:
            raise ValueError("Identity.revision must be a whole number from 0")

    def aad(self, kid: str) -> bytes:
        return lp(
            "aura/credential/v1",
            _VERSION,
            kid,
            self.tenant_id,
            self.connection_id,
            self.field,
            self.revision,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parsed:
    kid: str
    iv: bytes
    sealed: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedKey:
    """One tenant's key under one master key."""

    aead: AESGCM = field(repr=False)
    commitment: bytes = field(repr=False)


class UseCounter:
    """How often a key has sealed. It outlives the derived key, which is only a cache."""

    __slots__ = ("_lock", "used")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used = 0

    def at_least(self, used: int) -> None:
        with self._lock:
            self.used = max(self.used, used)

    def count(self, kid: str) -> None:
        with self._lock:
            if self.used >= NONCE_LIMIT:
                raise ConfigurationError(
                    f"Key {kid} has sealed 2^30 values of a tenant and must not seal more.",
                    hint="Rotate the master key: aura keys rotate.",
                )
            self.used += 1


class TenantKeys:
    """A tenant's keys under every master key that still has material. Made by `Keyring.tenant`."""

    __slots__ = ("_counter", "_destroyed", "_keys", "kid", "tenant_id")

    def __init__(
        self,
        *,
        tenant_id: str,
        kid: str,
        keys: Mapping[str, DerivedKey],
        destroyed: frozenset[str],
        counter: UseCounter,
    ) -> None:
        self.tenant_id = tenant_id
        self.kid = kid
        self._keys = keys
        self._destroyed = destroyed
        self._counter = counter

    def __repr__(self) -> str:
        return f"TenantKeys(tenant_id={self.tenant_id!r}, kid={self.kid!r})"

    @property
    def commitment(self) -> bytes:
        """The commitment of the active key, 32 bytes: record it for (tenant, `kid`)."""
        return self._keys[self.kid].commitment

    @property
    def commitments(self) -> dict[str, bytes]:
        """The commitment of every key that can still open, by key id."""
        return {kid: key.commitment for kid, key in self._keys.items()}

    @property
    def uses(self) -> int:
        """Known number of seals under the active key (see `Keyring.tenant`, `used`)."""
        return self._counter.used

    def seal(self, plaintext: bytes, identity: Identity) -> str:
        """Seal under the active key; the answer is the JSON text to store.

        Raises `ConfigurationError` where the key has been used `NONCE_LIMIT` times and
        `EnvelopeError` where `identity` is another tenant's.
        """
        self._own(identity)
        self._counter.count(self.kid)
        iv = os.urandom(_IV_BYTES)
        sealed = self._keys[self.kid].aead.encrypt(iv, plaintext, identity.aad(self.kid))
        return _dump(self.kid, iv, sealed)

    def open(self, stored: str, identity: Identity) -> bytes:
        """Open what `seal` stored. Raises `EnvelopeError` for whatever does not open, as
        `KeyMissing` where the envelope names a key that the ring lacks."""
        self._own(identity)
        return self._opened(_parse(stored), identity)

    def _opened(self, parsed: _Parsed, identity: Identity) -> bytes:
        key = self._keys.get(parsed.kid)
        if key is None and parsed.kid in self._destroyed:
            raise EnvelopeError(
                f"The value is sealed under master key {parsed.kid}, which has been destroyed.",
                kind="key_destroyed",
                hint="It cannot be recovered; the connection must be authorized again.",
            )
        if key is None:
            raise KeyMissing(
                f"The value is sealed under master key {parsed.kid}, which the keyring lacks.",
                kid=parsed.kid,
                hint="Add that key to the keyring as decrypt_only.",
            )
        try:
            return key.aead.decrypt(parsed.iv, parsed.sealed, identity.aad(parsed.kid))
        except InvalidTag:
            pass
        raise EnvelopeError(
            "The stored value does not open: it was altered, or it belongs to another tenant, "
            "connection, field or revision.",
            hint="Compare with the audit log (aura audit verify), then reconnect.",
        )

    def rewrap(self, stored: str, identity: Identity) -> str:
        """The same value under the active key; `stored` itself where it is so already.

        Raises what `open` and `seal` raise.
        """
        self._own(identity)
        parsed = _parse(stored)
        if parsed.kid == self.kid:
            return stored
        return self.seal(self._opened(parsed, identity), identity)

    def check(self, recorded: Mapping[str, bytes]) -> None:
        """Refuse keys that are not the ones the tenant's values were sealed under.

        AES-GCM is not key-committing: ciphertexts can be built that open under two keys. So the
        second half of every derivation is a commitment that the control plane records per tenant
        and key id, and it is compared before anything is decrypted. A master key or a salt that
        was swapped shows here too. Raises `KeyMissing`: the right key is the operator's to put
        back, and until then nothing is known of the values.
        """
        for kid, key in self._keys.items():
            expected = recorded.get(kid)
            if expected is not None and not hmac.compare_digest(expected, key.commitment):
                raise KeyMissing(
                    f"Master key {kid} or the tenant's salt is not the one that was recorded.",
                    kid=kid,
                    hint="Restore the keyring and the database from the same time.",
                )

    def _own(self, identity: Identity) -> None:
        if identity.tenant_id != self.tenant_id:
            raise EnvelopeError("The identity is another tenant's.")


def envelope_kid(stored: str) -> str:
    """The id of the master key that `stored` is sealed under (for rotation).

    It is what the text claims, checked for its form only. Raises `EnvelopeError`.
    """
    return _parse(stored).kid


def envelope_digest(stored: str) -> str:
    """SHA-256 of the stored text in hex: what the audit entry of its write records."""
    return hashlib.sha256(stored.encode()).hexdigest()


def _dump(kid: str, iv: bytes, sealed: bytes) -> str:
    ct, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    return (
        f'{{"v":{_VERSION},"kid":"{kid}","iv":"{b64url(iv)}",'
        f'"ct":"{b64url(ct)}","tag":"{b64url(tag)}"}}'
    )


def _parse(stored: object) -> _Parsed:
    if not isinstance(stored, str):
        raise EnvelopeError("A stored envelope is text.")
    written = _WRITTEN.fullmatch(stored)
    if written is not None:
        with suppress(ValueError):
            iv, ct, tag = (
                urlsafe_b64decode(part + "=" * (-len(part) % 4))
                for part in written.group("iv", "ct", "tag")
            )
            # What decodes and is written the same again is canonical, as below.
            if _dump(written["kid"], iv, ct + tag) == stored:
                return _Parsed(kid=written["kid"], iv=iv, sealed=ct + tag)
    return _parse_slowly(stored)


def _parse_slowly(stored: str) -> _Parsed:
    """What was not written by `_dump`: nothing of it is accepted, and this says what is wrong."""
    try:
        document = load_object(stored)
    except ValueError as error:
        raise EnvelopeError(f"The stored envelope {error}.") from None
    if document.get("v") != _VERSION:
        raise EnvelopeError(
            f"The stored envelope is not of version {_VERSION}.",
            hint="It may have been written by a newer Aura.",
        )
    if document.keys() != _FIELDS:
        raise EnvelopeError("The stored envelope has a field too many or too few.")
    kid = document["kid"]
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise EnvelopeError("The stored envelope's kid is not a key id.")
    parts: dict[str, bytes] = {}
    for name, length in (("iv", _IV_BYTES), ("ct", None), ("tag", _TAG_BYTES)):
        try:
            parts[name] = unb64url(document[name], length=length)
        except ValueError as error:
            raise EnvelopeError(f"The stored envelope's {name} {error}.") from None
    sealed = parts["ct"] + parts["tag"]
    # One value, one text: the audit log compares the digest of the text, so a respelling (white
    # space, another order, \u escapes) must not pass for the same envelope.
    if _dump(kid, parts["iv"], sealed) != stored:
        raise EnvelopeError("The stored envelope is not in canonical form.")
    return _Parsed(kid=kid, iv=parts["iv"], sealed=sealed)
