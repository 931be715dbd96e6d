"""Master keys in Vault: kept as fields of a KV secret, or wrapped by a transit key."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from aura_core.encoding import b64url, unb64url
from aura_core.errors import ConfigurationError, Conflict, ProviderUnavailable
from aura_plugin_vault.references import Place, field_of, place_of, wrapped_of
from aura_plugin_vault.session import Missing, Refused, VaultSession, vault_session
from aura_plugin_vault.settings import VaultSettings

__all__ = ["VaultStore"]

_KEY_BYTES = 32
_WRITES = 2
"""Each with a fresh read before it: one that another writer came before is done once more."""


class VaultStore:
    """A :class:`aura_core.secret_stores.SecretStore`. It logs in for each call and keeps nothing:
    it is asked at start and by commands only."""

    scheme = "vault"

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` are the host's, by name; they are read at each call."""
        self._settings = settings

    def __repr__(self) -> str:
        return "VaultStore()"

    def fetch(self, reference: str) -> bytes:
        """The 32 bytes of the field, or what transit unwraps under the reference's key id."""
        text, _, fragment = reference.partition("#")
        place = place_of(text)
        if place.engine == "transit":
            wrapped = wrapped_of(fragment)
            with self._session() as session:
                return _unwrapped(session, place, wrapped.name, wrapped.ciphertext)
        name = field_of(fragment)
        with self._session() as session:
            data, _ = _read(session, place)
        return _material(data, name, place)

    def keep(self, place: str, *, name: str, material: bytes) -> str:
        """Adds a field, or wraps. A field that holds another key is never overwritten."""
        if len(material) != _KEY_BYTES:
            raise ConfigurationError(f"A master key has {_KEY_BYTES} bytes.")
        where, field = place_of(place), field_of(name)
        with self._session() as session:
            if where.engine == "kv":
                _add(session, where, field, material)
                return f"{place}#{field}"
            return f"{place}#{field}.{_wrapped(session, where, field, material)}"

    def check(self) -> None:
        """Logs in and asks Vault about the token. Which places it may use shows when they are
        used: nothing here knows them."""
        with self._session() as session:
            session.look_up()

    def _session(self) -> Any:
        return vault_session(VaultSettings.read(self._settings))


# --- KV version 2: https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2 -----------------


def _read(session: VaultSession, place: Place) -> tuple[Mapping[str, Any], int]:
    """The fields of the latest version, and its number."""
    data = session.ask(
        lambda vault: vault.secrets.kv.v2.read_secret_version(
            place.path, mount_point=place.mount, raise_on_deleted_version=True
        ),
        path=place.api_path,
        needs="read",
        missing=f"Vault has no secret at {place.api_path}.",
    )
    fields, metadata = data.get("data"), data.get("metadata")
    version = metadata.get("version") if isinstance(metadata, Mapping) else None
    if type(version) is not int:
        raise ConfigurationError(f"Vault's engine at {place.mount} is not KV version 2.")
    if not isinstance(fields, Mapping):
        raise ConfigurationError(f"The secret at {place.api_path} in Vault has no fields.")
    return fields, version


def _material(data: Mapping[str, Any], name: str, place: Place) -> bytes:
    if name not in data:
        raise ConfigurationError(f"The secret at {place.api_path} in Vault has no field {name}.")
    try:
        return unb64url(data[name], length=_KEY_BYTES)
    except ValueError as error:
        reason = str(error)
    raise ConfigurationError(f"Field {name} of {place.api_path} in Vault {reason}.")


def _add(session: VaultSession, place: Place, name: str, material: bytes) -> None:
    """Check-and-set with the version that was read, so that no other field gets lost in a race."""
    for _ in range(_WRITES):
        try:
            fields, version = _read(session, place)
        except Missing:
            fields, version = {}, 0  # the version of what does not exist
        if name in fields:
            if hmac.compare_digest(str(fields[name]).encode(), b64url(material).encode()):
                return  # an earlier call whose answer was lost
            raise Conflict(
                f"Field {name} of {place.api_path} in Vault holds another key.",
                hint="A master key is never overwritten: name another place.",
            )
        try:
            _write(session, place, {**fields, name: b64url(material)}, version)
        except Refused:
            continue
        return
    raise ProviderUnavailable(f"Others write to {place.api_path} in Vault at the same time.")


def _write(session: VaultSession, place: Place, fields: Mapping[str, Any], version: int) -> None:
    session.ask(
        lambda vault: vault.secrets.kv.v2.create_or_update_secret(
            place.path, secret=dict(fields), cas=version, mount_point=place.mount
        ),
        path=place.api_path,
        needs="create and update",
        missing=f"Vault has no KV engine at {place.mount}.",
    )


# --- transit: https://developer.hashicorp.com/vault/api-docs/secret/transit -----------------------
#
# The key's id goes with every call twice: as context, which a key made with `derived=true` needs,
# and as associated data, because a key without derivation ignores the context.


def _unwrapped(session: VaultSession, place: Place, name: str, ciphertext: str) -> bytes:
    try:
        return _decrypted(session, place, name, ciphertext)
    except Refused:
        pass
    raise ConfigurationError(
        f"Vault's key {place.api_path} does not unwrap {name}.",
        hint="It was wrapped by another key, as another id, or by a version that was retired.",
    )


def _wrapped(session: VaultSession, place: Place, name: str, material: bytes) -> str:
    # Encrypting with a key that is not there would make one, where the policy allows it: master
    # keys would hang on a name that somebody mistyped.
    session.ask(
        lambda vault: vault.secrets.transit.read_key(place.path, mount_point=place.mount),
        path=place.api_path,
        needs="read",
        missing=f"Vault has no transit key at {place.api_path}.",
    )
    try:
        data = session.ask(
            lambda vault: vault.secrets.transit.encrypt_data(
                place.path,
                plaintext=b64encode(material).decode(),
                context=_bound(name),
                associated_data=_bound(name),
                mount_point=place.mount,
            ),
            path=f"{place.mount}/encrypt/{place.path}",
            needs="update",
            missing=f"Vault has no transit engine at {place.mount}.",
        )
    except Refused:
        data = {}
    try:
        ciphertext = wrapped_of(f"{name}.{data.get('ciphertext')}").ciphertext
    except ConfigurationError:
        ciphertext = None
    if ciphertext is None:
        raise ConfigurationError(
            f"Vault's key {place.api_path} does not wrap.",
            hint="It has to be of the type aes256-gcm96, aes128-gcm96 or chacha20-poly1305.",
        )
    _prove_bound(session, place, name, ciphertext)
    return ciphertext


def _prove_bound(session: VaultSession, place: Place, name: str, ciphertext: str) -> None:
    """A server that is too old for associated data drops it without a word, and then any wrapped
    key opens as any other. So it is asked to open this one as another."""
    try:
        _decrypted(session, place, f"{name}.other", ciphertext)
    except Refused:
        return
    raise ConfigurationError(
        f"Vault's key {place.api_path} does not bind a wrapped key to its id.",
        hint="Use a key made with derived=true, or a newer Vault.",
    )


def _decrypted(session: VaultSession, place: Place, name: str, ciphertext: str) -> bytes:
    data = session.ask(
        lambda vault: vault.secrets.transit.decrypt_data(
            place.path,
            ciphertext=ciphertext,
            context=_bound(name),
            associated_data=_bound(name),
            mount_point=place.mount,
        ),
        path=f"{place.mount}/decrypt/{place.path}",
        needs="update",
        missing=f"Vault has no transit engine at {place.mount}.",
    )
    try:
        material = b64decode(str(data.get("plaintext")), validate=True)
    except ValueError:
        material = b""
    if len(material) != _KEY_BYTES:
        raise ConfigurationError(f"What {place.api_path} unwraps is not {_KEY_BYTES} bytes long.")
    return material


def _bound(name: str) -> str:
    return b64encode(f"aura:master-key:{name}".encode()).decode()
