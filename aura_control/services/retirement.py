"""The master keys as they stand, and ending one that nothing needs any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.db.repositories.sealed import PLACES
from aura_control.db.transaction import Transaction
from aura_control.services.keys import Vault
from aura_core.crypto import NONCE_LIMIT, Identity, KeyState, TenantKeys, envelope_kid
from aura_core.errors import ConfigurationError, Conflict, EnvelopeError

__all__ = ["KeyStatus", "key_status", "needed", "retire", "unfinished"]

_PAGE = 200


@dataclass(frozen=True, kw_only=True)
class KeyStatus:
    """One master key: where it is kept, what is sealed under it, and how much it was used."""

    kid: str
    state: KeyState
    kept: str
    sealed: Mapping[str, int]
    """Rows by place."""
    uses: int
    """Seals that were reserved for the tenant that used it most; ``NONCE_LIMIT`` is the end."""

    @property
    def rows(self) -> int:
        return sum(self.sealed.values())

    @property
    def used_up(self) -> float:
        """The share of the seals that one key may make, from 0 to 1."""
        return self.uses / NONCE_LIMIT

    @property
    def retirable(self) -> bool:
        """Whether nothing is sealed under it. A key that was prepared and never active is not."""
        return self.state == "decrypt_only" and not self.rows and self.uses > 0


async def key_status(tx: Transaction, vault: Vault, *, kept_in: str) -> Sequence[KeyStatus]:
    """All keys in the ring's order. ``kept_in`` is where those without a reference are."""
    counts, uses = await tx.sealed.counts(), await tx.tenants.most_uses()
    return [
        KeyStatus(
            kid=key.kid,
            state=key.state,
            kept=_kept(key.state, key.reference, kept_in),
            sealed={place: by_key.get(key.kid, 0) for place, by_key in counts.items()},
            uses=uses.get(key.kid, 0),
        )
        for key in vault.keyring.keys
    ]


def _kept(state: KeyState, reference: str | None, kept_in: str) -> str:
    if state == "destroyed":
        return "nowhere"
    # What follows the number sign may be the wrapped key itself.
    return kept_in if reference is None else reference.partition("#")[0]


async def unfinished(database: Database, vault: Vault) -> bool:
    """Whether an earlier rotation left something that opens under an older key."""
    ring = vault.keyring
    async with database.transaction() as tx:
        for key in ring.keys:
            older = int(key.kid[1:]) < int(ring.active[1:])
            if older and key.state == "decrypt_only" and await needed(tx, vault, key.kid):
                return True
    return False


async def retire(database: Database, vault: Vault, kid: str) -> None:
    """Makes sure that nothing needs ``kid`` and that nothing is sealed under it from now on.

    The caller destroys the material afterwards: if it dies before, retiring again does the same.
    What is sealed under the key and does not open is lost already and does not keep it. Raises
    ConfigurationError for a key that cannot be retired and Conflict while something needs it.
    """
    state = vault.keyring.states.get(kid)
    if state is None:
        raise ConfigurationError(f"The keyring has no master key {kid}.")
    if state == "active":
        raise Conflict(
            f"Master key {kid} is the active one.", hint="Rotate first: aura keys rotate."
        )
    if state == "destroyed":
        raise Conflict(f"Master key {kid} is retired already.")
    async with database.transaction() as tx:
        await tx.tenants.hold_keys(alone=True)
        if await needed(tx, vault, kid):
            counts = {place: by.get(kid, 0) for place, by in (await tx.sealed.counts()).items()}
            said = ", ".join(f"{rows} {place}" for place, rows in counts.items() if rows)
            raise Conflict(
                f"Master key {kid} still seals {said}.",
                hint="Seal them again first: aura keys rotate --resume.",
            )
        await tx.tenants.retire_key(kid)


async def needed(tx: Transaction, vault: Vault, kid: str) -> bool:
    """Whether anything that is sealed under the key opens."""
    after: str | None = ""
    while after is not None:
        connections = await tx.sealed.connections([kid], under=True, after=after, limit=_PAGE)
        for connection in connections:
            if await _connection_opens(tx, vault, connection, kid):
                return True
        after = connections[-1].id if connections else None
    for place in PLACES:
        after = ""
        while after is not None:
            rows = await tx.sealed.rows(place, [kid], under=True, after=after, limit=_PAGE)
            for row in rows:
                keys = await vault.opening(tx, row.tenant_id)
                if _opens(keys, row.stored, place.identity(row)):
                    return True
            after = rows[-1].key if rows else None
    return False


async def _connection_opens(
    tx: Transaction, vault: Vault, connection: Connection, kid: str
) -> bool:
    try:
        tokens = connection.envelope()
    except EnvelopeError:
        return False
    keys = await vault.opening(tx, connection.tenant_id)
    parts = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}
    return any(
        stored is not None
        and _kid_of(stored) == kid
        and _opens(
            keys,
            stored,
            Identity(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                field=part,
                revision=connection.revision,
            ),
        )
        for part, stored in parts.items()
    )


def _kid_of(stored: str) -> str | None:
    try:
        return envelope_kid(stored)
    except EnvelopeError:
        return None


def _opens(keys: TenantKeys, stored: str, identity: Identity) -> bool:
    try:
        keys.open(stored, identity)
    except EnvelopeError:
        return False
    return True
