"""The master keys and what is derived from them."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aura_core.crypto._envelope import (
    KID,
    DerivedKey,
    TenantKeys,
    UseCounter,
)
from aura_core.encoding import b64url, lp, unb64url
from aura_core.errors import ConfigurationError

__all__ = ["REFERENCE", "Fetch", "KeyState", "Keyring", "MasterKey"]

KeyState = Literal["active", "decrypt_only", "destroyed"]

Fetch = Callable[[str, str], bytes]
"""(key id, reference) -> the 32 bytes of the master key."""

_STATES: dict[str, KeyState] = {state: state for state in get_args(KeyState)}
_KEY_BYTES = 32
_SALT_BYTES = 32
_CACHED_TENANTS = 1024
_TENANT_LABEL = "aura/tenant-key/v1"
REFERENCE = re.compile(r"[a-z][a-z0-9-]*:[\x21-\x2b\x2d-\x7e]+", re.ASCII)
"""One word of printable ASCII behind a scheme; a comma would end the entry of a ring's text."""
_LABEL = re.compile(r"aura/[a-z]+(-[a-z]+)*/v[1-9][0-9]*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class MasterKey:
    """One version of the master key: 32 random bytes, or none once it is destroyed.

    `reference` is where a secret store keeps the material; the ring's text then holds the reference
    and no material. Raises `ConfigurationError`; the message never holds material.
    """

    kid: str
    material: bytes = field(repr=False)
    state: KeyState
    reference: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kid, str) or not KID.fullmatch(self.kid):
            raise ConfigurationError("A master key's id must look like m3.")
        if self.state not in _STATES:
            raise ConfigurationError(
                f"Master key {self.kid} must be active, decrypt_only or destroyed."
            )
        expected = 0 if self.state == "destroyed" else _KEY_BYTES
        if not isinstance(self.material, bytes) or len(self.material) != expected:
            raise ConfigurationError(
                f"Master key {self.kid} ({self.state}) must have {expected} bytes of material."
            )
        if self.reference is not None and (
            not REFERENCE.fullmatch(self.reference) or self.state == "destroyed"
        ):
            raise ConfigurationError(
                f"Master key {self.kid}: its reference must be text after a scheme and a colon,"
                " without white space and commas, and a destroyed key has none."
            )


class Keyring:
    """The master keys, of which exactly one is active.

    New values are sealed under the active key; `decrypt_only` keys open what is left of theirs; a
    `destroyed` key has no material and stays listed, so that its values are reported as gone rather
    than as damaged. Raises `ConfigurationError` for keys that do not make a ring.
    """

    def __init__(self, keys: Iterable[MasterKey]) -> None:
        ordered = tuple(keys)
        self._keys = {key.kid: key for key in ordered}
        if len(self._keys) != len(ordered):
            raise ConfigurationError("The keyring names a master key twice.")
        active = [key.kid for key in ordered if key.state == "active"]
        if len(active) != 1:
            raise ConfigurationError(
                f"The keyring has {len(active)} active master keys and needs exactly one."
            )
        live = [key.material for key in ordered if key.material]
        if len(set(live)) != len(live):
            raise ConfigurationError("Two master keys of the keyring have the same material.")
        self._active = active[0]
        self._lock = threading.Lock()
        self._tenants: OrderedDict[tuple[str, bytes], TenantKeys] = OrderedDict()
        self._counters: dict[str, UseCounter] = {}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(f'{k.kid} {k.state}' for k in self._keys.values())})"

    @property
    def active(self) -> str:
        """The id of the active key."""
        return self._active

    @property
    def keys(self) -> tuple[MasterKey, ...]:
        """The keys, in the ring's order."""
        return tuple(self._keys.values())

    @property
    def states(self) -> dict[str, KeyState]:
        """The state of every key by its id."""
        return {key.kid: key.state for key in self._keys.values()}

    @classmethod
    def generate(cls) -> Keyring:
        """A new ring of one key, `m1`."""
        return cls([MasterKey(kid="m1", material=os.urandom(_KEY_BYTES), state="active")])

    @classmethod
    def parse(cls, text: str, *, fetch: Fetch | None = None) -> Keyring:
        """Read entries `m1:active:<base64url>`, one a line or separated by commas.

        A destroyed key's entry ends after its second colon; `#` starts a comment line. What holds a
        colon in place of the material is a reference, as in `m2:active:vault:kv/data/aura#m2`:
        `fetch` is called with the key's id and the reference, and answers the 32 bytes. Raises
        `ConfigurationError`, and what `fetch` raises. Errors name an entry by its number only: a
        mistyped entry may be nothing but key material.
        """
        return cls(
            [_parse_entry(number, entry, fetch) for number, entry in enumerate(_entries(text), 1)]
        )

    @staticmethod
    def references(text: str) -> tuple[str, ...]:
        """The references of a ring's text, asking nobody for a key. What is no entry is passed
        over: `parse` says what is wrong with it."""
        kept = [entry.split(":", 2)[-1] for entry in _entries(text)]
        return tuple(reference for reference in kept if REFERENCE.fullmatch(reference))

    def dump(self) -> str:
        """The ring as text that `parse` reads, one entry a line. It holds the material of keys
        that have no reference."""
        return "".join(
            f"{k.kid}:{k.state}:{k.reference or b64url(k.material)}\n" for k in self._keys.values()
        )

    @property
    def successor(self) -> str | None:
        """The id of the newest key that was prepared and never active, if there is one."""
        newest = max(self._keys.values(), key=_number)
        prepared = newest.state == "decrypt_only" and _number(newest) > int(self._active[1:])
        return newest.kid if prepared else None

    def next_kid(self) -> str:
        """The id that the next new key gets."""
        return f"m{1 + max(map(_number, self._keys.values()))}"

    def rotate(self) -> Keyring:
        """A ring with a new active key; the present one may only open from then on."""
        new = MasterKey(kid=self.next_kid(), material=os.urandom(_KEY_BYTES), state="decrypt_only")
        return self.prepare(new).activate(new.kid)

    def prepare(self, new: MasterKey) -> Keyring:
        """A ring that has one more key, which may only open until it is activated.

        Where several hosts have copies of the ring, all of them must know a key before the first
        of them seals under it.
        """
        return Keyring([*self._keys.values(), replace(new, state="decrypt_only")])

    def activate(self, kid: str) -> Keyring:
        """A ring that seals under `kid`. Raises `ConfigurationError` unless that is its
        successor: going back to an older key would seal under one that is about to be retired."""
        if kid != self.successor:
            raise ConfigurationError(f"Master key {kid} is not a prepared key of this keyring.")
        states: dict[str, KeyState] = {self._active: "decrypt_only", kid: "active"}
        return Keyring(
            [replace(key, state=states.get(key.kid, key.state)) for key in self._keys.values()]
        )

    def destroy(self, kid: str) -> Keyring:
        """A ring in which `kid` has no material any more. The caller has counted 0 rows of it."""
        key = self._keys.get(kid)
        if key is None:
            raise ConfigurationError(f"The keyring has no master key {kid}.")
        gone = replace(key, material=b"", state="destroyed", reference=None)
        return Keyring([gone if key.kid == kid else key for key in self._keys.values()])

    def tenant(
        self,
        tenant_id: str,
        salt: bytes,
        *,
        commitments: Mapping[str, bytes] | None = None,
        used: int = 0,
    ) -> TenantKeys:
        """The keys of a tenant, derived once and cached.

        `salt` is the tenant's own 32 random bytes; deleting it shreds all that the tenant has
        sealed (call `forget` then). `commitments` are those recorded for the tenant by key id: the
        caller keeps a table (tenant, key id, commitment), fills it from `TenantKeys.commitments`
        the first time a key is used and passes it here ever after. A difference raises
        `EnvelopeError` before anything is decrypted; the stored envelope itself has no place for a
        commitment. `used` is the number of seals under the active key that the caller has recorded,
        from all processes: this one only counts its own, and the count never goes back.
        """
        if not isinstance(tenant_id, str) or not tenant_id:
            raise ValueError("a tenant's id is text that is not empty")
        if not isinstance(salt, bytes) or len(salt) != _SALT_BYTES:
            raise ValueError(f"a tenant's salt is {_SALT_BYTES} bytes")
        with self._lock:
            tenant = self._tenants.get((tenant_id, salt))
            if tenant is None:
                tenant = self._derive_tenant(tenant_id, salt)
                self._tenants[tenant_id, salt] = tenant
                if len(self._tenants) > _CACHED_TENANTS:
                    self._tenants.popitem(last=False)
            self._tenants.move_to_end((tenant_id, salt))
            self._counters[tenant_id].at_least(used)
        if commitments is not None:
            tenant.check(commitments)
        return tenant

    def forget(self, tenant_id: str) -> None:
        """Drop the cached keys of a tenant whose salt has been deleted."""
        with self._lock:
            for cached in [key for key in self._tenants if key[0] == tenant_id]:
                del self._tenants[cached]

    def derive(
        self,
        label: str,
        tenant_id: str | None = None,
        salt: bytes | None = None,
        *,
        kid: str | None = None,
    ) -> bytes:
        """A 32-byte key for `label`, such as `aura/audit-key/v1`, under the active key or `kid`.

        What must outlive a rotation (the audit chain) records the key id and asks for it again.
        Raises `ConfigurationError` where `kid` is unknown or destroyed.
        """
        if not _LABEL.fullmatch(label) or label == _TENANT_LABEL:
            # The tenant label is reserved: deriving it here would hand out the encryption key.
            raise ValueError("a derivation's label looks like aura/audit-key/v1")
        master = self._keys.get(kid or self._active)
        if master is None or not master.material:
            raise ConfigurationError(
                f"Master key {kid} is destroyed or unknown.",
                hint="Add it to the keyring as decrypt_only.",
            )
        owner = () if tenant_id is None else (tenant_id,)
        return _hkdf(master.material, salt, lp(label, master.kid, *owner), _KEY_BYTES)

    def _derive_tenant(self, tenant_id: str, salt: bytes) -> TenantKeys:
        keys: dict[str, DerivedKey] = {}
        for master in self._keys.values():
            if master.state == "destroyed":
                continue
            info = lp(_TENANT_LABEL, master.kid, tenant_id)
            okm = _hkdf(master.material, salt, info, 2 * _KEY_BYTES)
            keys[master.kid] = DerivedKey(aead=AESGCM(okm[:32]), commitment=okm[32:])
        return TenantKeys(
            tenant_id=tenant_id,
            kid=self._active,
            keys=keys,
            destroyed=frozenset(k.kid for k in self._keys.values() if k.state == "destroyed"),
            counter=self._counters.setdefault(tenant_id, UseCounter()),
        )


def _hkdf(material: bytes, salt: bytes | None, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(material)


def _number(key: MasterKey) -> int:
    return int(key.kid[1:])


def _entries(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]


def _parse_entry(number: int, entry: str, fetch: Fetch | None) -> MasterKey:
    parts = entry.split(":", 2)
    if len(parts) != 3:
        raise ConfigurationError(
            f"Entry {number} of the keyring is not <id>:<state>:<base64url or reference>.",
            hint="An entry looks like m1:active:<43 characters>.",
        )
    kid, state, kept = parts
    if not KID.fullmatch(kid):
        raise ConfigurationError(f"Entry {number} of the keyring: the id must look like m3.")
    known = _STATES.get(state)
    if known is None:
        raise ConfigurationError(
            f"Entry {number} of the keyring: the state must be active, decrypt_only or destroyed."
        )
    if ":" in kept:
        return _fetched(number, kid, known, kept, fetch)
    try:
        material = unb64url(kept)
    except ValueError as error:
        raise ConfigurationError(f"Entry {number} of the keyring: the material {error}.") from None
    return MasterKey(kid=kid, material=material, state=known)


def _fetched(
    number: int, kid: str, state: KeyState, reference: str, fetch: Fetch | None
) -> MasterKey:
    if not REFERENCE.fullmatch(reference) or state == "destroyed":
        raise ConfigurationError(
            f"Entry {number} of the keyring is not <id>:<state>:<base64url or reference>.",
            hint="A reference looks like vault:kv/data/aura/master-keys#m2.",
        )
    if fetch is None:
        raise ConfigurationError(
            f"Entry {number} of the keyring is a reference, and there is no secret store to ask."
        )
    return MasterKey(kid=kid, material=fetch(kid, reference), state=state, reference=reference)
