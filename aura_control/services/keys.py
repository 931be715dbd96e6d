"""The vault: sealing and opening what the database keeps, and the key that machines know.

Everything secret of a connection is two sealed values. ``access_token`` holds what a request to
the provider carries: the access token, or the fields that the user typed. ``refresh_token`` holds
what renews it and stays here: the refresh token, or a client's own credentials. Each is a JSON
object of names and values, so that both columns have one form for every way to authenticate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Literal

from pydantic import SecretStr

from aura_control.db.connection import Connection, SealedTokens, Slot
from aura_control.db.repositories.tenants import KeyRecord
from aura_control.db.transaction import Transaction
from aura_control.services.audit_keys import AuditKeys
from aura_control.services.ring import RingFile
from aura_control.services.seals import Seals
from aura_core.credentials import CredentialEnvelope
from aura_core.crypto import Identity, Keyring, TenantKeys
from aura_core.errors import ConfigurationError, EnvelopeError, KeyMissing
from aura_core.manifest import AuthMethod
from aura_core.wire import ControlKeys

__all__ = ["EnvelopeRefused", "Secrets", "Vault", "carried"]

_LOOK_SECONDS = 1.0

Secrets = Mapping[str, SecretStr]
Part = Literal["access_token", "refresh_token"]


class EnvelopeRefused(EnvelopeError):
    """The stored credential of ``connection`` does not open; ``cause`` says why.

    Whoever catches it lets ``services.refusals.refuse`` record it and raises what that answers.
    """

    def __init__(self, connection: Connection, cause: EnvelopeError) -> None:
        super().__init__(cause.message, kind=cause.kind, hint=cause.hint)
        self.connection = connection
        self.cause = cause


class Vault:
    """The keys of the control plane. One per process."""

    def __init__(
        self, keyring: Keyring, signing: ControlKeys, *, file: RingFile | None = None
    ) -> None:
        """``file`` is where the keyring came from; without one it never changes."""
        self._keyring = keyring
        self._file = file
        self._seals = Seals()
        self._closing = asyncio.Event()
        self._looking, self._looks, self._looked = asyncio.Lock(), 0, 0
        self.signing = signing
        """Signs everything that goes to machines."""
        self.reported: set[tuple[str, int]] = set()
        """Connections (id and revision) whose missing key was audited by this process."""

    @property
    def keyring(self) -> Keyring:
        """The newest keyring that this process knows."""
        return self._keyring

    async def watch(self) -> None:
        """Takes up a changed keyring within a second, until :meth:`close`."""
        while not self._closing.is_set():
            await self.reload()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._closing.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Ends :meth:`watch`."""
        self._closing.set()

    async def reload(self) -> None:
        """Takes up the keyring's file if it changed. In a thread: it may ask a secret store.

        Whoever asks while another looks waits for one look that begins later, together with all who
        wait: a store that does not answer is not asked once for each credential.
        """
        if self._file is None:
            return
        asked = self._looks
        async with self._looking:
            if self._looked > asked:
                return
            self._looks = number = self._looks + 1
            await asyncio.to_thread(self._file.newer)
            # Not what the thread answers: one that nobody waited for any more has read it, too.
            self._keyring = self._file.ring or self._keyring
            self._looked = number

    @property
    def audit_key(self) -> AuditKeys:
        """Makes and opens the keys of the tenants' audit chains."""
        return AuditKeys(lambda: self._keyring, reload=self.reload)

    def derive(self, label: str) -> bytes:
        """A 32-byte key of the control plane itself, under the active master key."""
        return self._keyring.derive(label)

    def forget(self, tenant_id: str) -> None:
        """Drops the keys of a tenant whose salt was destroyed from memory."""
        self._keyring.forget(tenant_id)

    async def seal_field(
        self,
        tx: Transaction,
        tenant_id: str,
        connection_id: str,
        field: str,
        revision: int,
        text: str,
    ) -> str:
        """Seals one value, bound to what it belongs to."""
        identity = Identity(
            tenant_id=tenant_id, connection_id=connection_id, field=field, revision=revision
        )
        return (await self.sealing(tx, tenant_id)).seal(text.encode(), identity)

    async def sealing(self, tx: Transaction, tenant_id: str, *, count: int = 1) -> TenantKeys:
        """The tenant's keys, for ``count`` seals in this transaction.

        Raises ConfigurationError where this process knows no key that may still be sealed under.
        """
        await tx.tenants.hold_keys()
        ring = self._keyring
        keys, recorded = await self._tenant(tx, tenant_id)
        if await self._retired(tx, keys, recorded):
            await self.reload()
            if self._keyring is ring:
                raise ConfigurationError(
                    f"Master key {keys.kid} is retired, and this process knows no newer one.",
                    hint="Give it the present keyring: AURA_MASTER_KEYS or AURA_MASTER_KEYS_FILE.",
                )
            return await self.sealing(tx, tenant_id, count=count)
        await self._seals.take(tx, keys, recorded, count)
        return keys

    async def opening(self, tx: Transaction, tenant_id: str) -> TenantKeys:
        """The tenant's keys as the known keyring has them, for opening what ``sealing`` sealed."""
        return (await self._tenant(tx, tenant_id))[0]

    async def _retired(
        self, tx: Transaction, keys: TenantKeys, recorded: Mapping[str, KeyRecord]
    ) -> bool:
        known = recorded.get(keys.kid)
        if known is not None:
            return known.retired
        return await tx.tenants.retired_at(keys.kid) is not None

    async def open_field(
        self,
        tx: Transaction,
        tenant_id: str,
        connection_id: str,
        field: str,
        revision: int,
        stored: str,
    ) -> str:
        """Opens what ``seal_field`` sealed. Raises EnvelopeError, as KeyMissing where the keyring
        lacks the key and its file does not have it either."""
        identity = Identity(
            tenant_id=tenant_id, connection_id=connection_id, field=field, revision=revision
        )
        ring = self._keyring
        try:
            keys, _ = await self._tenant(tx, tenant_id)
            return keys.open(stored, identity).decode()
        except KeyMissing:
            # Another process may seal under a key that is newer than what this one has read.
            await self.reload()
            if self._keyring is ring:
                raise
        keys, _ = await self._tenant(tx, tenant_id)
        return keys.open(stored, identity).decode()

    async def seal_tokens(
        self, tx: Transaction, *, tenant_id: str, slot: Slot, method: AuthMethod, secrets: Secrets
    ) -> SealedTokens:
        """Seals a connection's secrets under its slot, apart by what may leave this process."""
        names = carried(method)
        parts: dict[Part, dict[str, str]] = {"access_token": {}, "refresh_token": {}}
        for name, secret in secrets.items():
            part: Part = "access_token" if name in names else "refresh_token"
            parts[part][name] = secret.get_secret_value()
        keys = await self.sealing(tx, tenant_id, count=len(parts))
        sealed = {
            part: keys.seal(
                json.dumps(values).encode(),
                Identity(
                    tenant_id=tenant_id,
                    connection_id=slot.connection_id,
                    field=part,
                    revision=slot.revision,
                ),
            )
            for part, values in parts.items()
            if values
        }
        return SealedTokens(
            access_token=sealed.get("access_token"), refresh_token=sealed.get("refresh_token")
        )

    async def open_envelope(
        self, tx: Transaction, connection: Connection, *, renewing: bool = False
    ) -> CredentialEnvelope:
        """The connection's envelope with the secrets that a request carries; with those that renew
        it too only when asked, because nothing else needs them. Raises EnvelopeRefused."""
        try:
            tokens = connection.envelope()
            secrets = await self._open_part(tx, connection, "access_token", tokens.access_token)
            if renewing:
                secrets |= await self._open_part(
                    tx, connection, "refresh_token", tokens.refresh_token
                )
        except EnvelopeError as error:
            raise EnvelopeRefused(connection, error) from error
        return CredentialEnvelope(
            integration_id=connection.id,
            user_id=connection.user_id,
            provider=connection.provider,
            auth_id=connection.auth_method,
            encrypted_access_token=tokens.access_token,
            encrypted_refresh_token=tokens.refresh_token,
            secrets=secrets,
            token_expiry=connection.token_expiry,
            scopes=connection.scopes,
            metadata=connection.metadata,
            variables={name: str(value) for name, value in connection.config.items()},
            connected_at=connection.connected_at,
        )

    async def _open_part(
        self, tx: Transaction, connection: Connection, part: Part, stored: str | None
    ) -> dict[str, SecretStr]:
        if stored is None:
            return {}
        text = await self.open_field(
            tx, connection.tenant_id, connection.id, part, connection.revision, stored
        )
        return {name: SecretStr(value) for name, value in json.loads(text).items()}

    async def _tenant(
        self, tx: Transaction, tenant_id: str
    ) -> tuple[TenantKeys, Mapping[str, KeyRecord]]:
        tenant = await tx.tenants.get(tenant_id)
        if tenant.kdf_salt is None:
            raise EnvelopeError("The tenant's keys were destroyed.", kind="key_destroyed")
        recorded = await tx.tenants.keys(tenant_id)
        active = recorded.get(self._keyring.active)
        keys = self._keyring.tenant(
            tenant_id,
            tenant.kdf_salt,
            commitments={kid: record.commitment for kid, record in recorded.items()},
            used=0 if active is None else active.uses,
        )
        return keys, recorded


def carried(method: AuthMethod) -> frozenset[str]:
    """Names of the secrets that a request to the provider carries: those that its placements name.

    A way to authenticate that places nothing itself (signatures, webhooks) needs all its fields at
    hand, so nothing of it is kept apart.
    """
    names = set(method.placed)
    if not method.placements:
        names |= {field.name for field in getattr(method, "fields", ())}
    return frozenset(names | {"access_token"})
