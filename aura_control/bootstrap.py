"""The first start: keys, schema, a tenant and its user; every later start finds them there."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from aura_control.db.columns import new_id
from aura_control.db.engine import Database
from aura_control.db.schema import migrate, version
from aura_control.services.checkpoints import CheckpointPlace
from aura_control.services.keys import Vault
from aura_control.services.ring import RingFile, read_secret, write_secret
from aura_control.settings import Settings
from aura_core.checkpoints import FileCheckpoints
from aura_core.crypto import Keyring
from aura_core.errors import ConfigurationError
from aura_core.registry import Registry
from aura_core.secret_stores import SecretStore, SecretStores
from aura_core.wire import ControlKeys

__all__ = [
    "Owner",
    "add_user",
    "ensure_keys",
    "ensure_owner",
    "issue_token",
    "key_references",
    "load_signing",
    "load_vault",
    "open_checkpoints",
    "open_database",
]

_ACTOR = "system"

Stores = Callable[[], Mapping[str, SecretStore]]


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A user with a fresh API token. The token is shown once: only its hash is kept."""

    tenant_id: str
    user_id: str
    email: str
    token: str = field(repr=False)


async def ensure_keys(settings: Settings) -> None:
    """Make the data directory, the keyring and the signing key where there are none.

    Only ``aura up`` calls this: a service that finds its keys missing must stop rather than start
    with new ones, which open none of the credentials that the lost ones sealed.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if settings.master_keys is None and not settings.keyring_path.exists():
        if await version(settings.database) is not None:
            raise ConfigurationError(
                f"The database is in use but its master keys are not at {settings.keyring_path}.",
                hint="Put them back (AURA_MASTER_KEYS_FILE); new ones would open nothing.",
            )
        _write_secret(settings.keyring_path, Keyring.generate().dump().encode())
    if not settings.signing_key_path.exists():
        _write_secret(settings.signing_key_path, ControlKeys.generate().dump())


def _write_secret(path: Path, content: bytes) -> None:
    """Create a file for its owner only, whole or not at all, never over another."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_secret(temporary, content)
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process made it first; theirs counts
    finally:
        temporary.unlink(missing_ok=True)


def load_vault(settings: Settings, stores: Stores = dict) -> Vault:
    """The keys from environment, files and secret stores. It blocks: call it before a loop runs.

    ``stores`` answers the installed secret stores by scheme; it is called when the keyring holds a
    reference. Raises ConfigurationError naming what is missing, and what a store raises.
    """
    signing, asked = load_signing(settings), SecretStores(stores)
    if settings.master_keys is not None:
        return Vault(Keyring.parse(_ring_text(settings), fetch=asked.fetch), signing)
    file = RingFile(settings.keyring_path, asked)
    return Vault(file.read(), signing, file=file)


def load_signing(settings: Settings) -> ControlKeys:
    """The signing key alone, for what needs no credential. Raises ConfigurationError."""
    return ControlKeys.load(read_secret(settings.signing_key_path, "AURA_SIGNING_KEY_FILE"))


def key_references(settings: Settings) -> tuple[str, ...]:
    """What the keyring refers to, asking no store. Raises ConfigurationError for a file that cannot
    be read."""
    return Keyring.references(_ring_text(settings))


def _ring_text(settings: Settings) -> str:
    if settings.master_keys is not None:
        return settings.master_keys.get_secret_value()
    return read_secret(settings.keyring_path, "AURA_MASTER_KEYS_FILE").decode("utf-8", "replace")


def open_database(settings: Settings, vault: Vault) -> Database:
    """The control plane's database with the audit keys of ``vault``."""
    return Database.open(settings.database, audit_key=vault.audit_key)


def open_checkpoints(
    settings: Settings, registry: Registry, *, place: str | None = None
) -> CheckpointPlace:
    """The place for the audit log's checkpoints, or another ``place`` to read them at.

    Raises ConfigurationError for a place that nothing here can reach.
    """
    place = place or settings.checkpoint_place
    scheme = urlsplit(place).scheme
    if scheme == FileCheckpoints.scheme:
        return CheckpointPlace(store=FileCheckpoints(), place=place)
    store = registry.checkpoint_stores().get(scheme)
    if store is None:
        raise ConfigurationError(
            f"No plugin keeps checkpoints at {scheme}://.",
            hint="Install one, or set AURA_AUDIT_CHECKPOINTS to file:///directory.",
        )
    return CheckpointPlace(store=store, place=place)


async def add_user(database: Database, *, tenant_name: str, email: str) -> Owner:
    """A tenant of its own for a new user, with a token. Raises Conflict for a known address."""
    tenant_id, user_id = new_id(), new_id()
    async with database.transaction() as tx:
        await tx.tenants.create(
            tenant_id=tenant_id,
            name=tenant_name,
            kdf_salt=secrets.token_bytes(32),
            actor=_ACTOR,
        )
        await tx.users.create(tenant_id=tenant_id, user_id=user_id, email=email, actor=_ACTOR)
    token = await issue_token(database, tenant_id=tenant_id, user_id=user_id, name="first")
    return Owner(tenant_id=tenant_id, user_id=user_id, email=email, token=token)


async def issue_token(database: Database, *, tenant_id: str, user_id: str, name: str) -> str:
    """A new API token of a user: 256 random bits, kept as its SHA-256."""
    token = f"aura_{secrets.token_urlsafe(32)}"
    async with database.transaction() as tx:
        await tx.tokens.issue(
            tenant_id=tenant_id,
            user_id=user_id,
            name=name,
            token_hash=_token_hash(token),
            expires_at=None,
            actor=_ACTOR,
        )
    return token


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def ensure_owner(
    settings: Settings, vault: Vault, *, email: str, known_token: SecretStr | None
) -> Owner:
    """Migrate the database and answer its owner with a valid token.

    The first start adds the owner; later ones keep ``known_token`` while it is valid, so that
    restarting does not pile up tokens.
    """
    await migrate(settings.database)
    database = open_database(settings, vault)
    try:
        async with database.reading() as tx:
            user = await tx.users.by_email(email)
            token = None if known_token is None else known_token.get_secret_value()
            principal = await tx.tokens.authenticate(_token_hash(token)) if token else None
        if user is None:
            return await add_user(database, tenant_name=email, email=email)
        if token is None or principal is None or principal.user_id != user.id:
            token = await issue_token(
                database, tenant_id=user.tenant_id, user_id=user.id, name="aura up"
            )
        return Owner(tenant_id=user.tenant_id, user_id=user.id, email=email, token=token)
    finally:
        await database.close()
