"""Two tenants with sealed values in all places, and what a test asks of them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import text

from aura_control.bootstrap import Owner, add_user, load_vault, open_database
from aura_control.db.connection import Connection, Grant, SealedTokens
from aura_control.db.engine import Database
from aura_control.db.repositories.audit import AuditState
from aura_control.db.transaction import Transaction
from aura_control.services.keys import Vault
from aura_control.services.revocation import keep_tokens
from aura_control.services.ring import RingFile, write_secret
from aura_control.settings import Settings
from aura_core.crypto import Keyring
from aura_core.secret_stores import SecretStores
from aura_core.wire import ControlKeys

PROVIDERS = ("acme", "mail", "chat")


def make_keys(settings: Settings) -> None:
    """What the first start makes, for a database that is there already."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(settings.keyring_path, Keyring.generate().dump().encode())
    write_secret(settings.signing_key_path, ControlKeys.generate().dump())


@dataclass
class SealedWorld:
    settings: Settings
    database: Database
    vault: Vault
    owners: list[Owner] = field(default_factory=list)

    @classmethod
    async def make(cls, settings: Settings) -> SealedWorld:
        vault = load_vault(settings)
        world = cls(settings=settings, database=open_database(settings, vault), vault=vault)
        for name in ("ada", "eve"):
            owner = await add_user(world.database, tenant_name=name, email=f"{name}@example.org")
            world.owners.append(owner)
            async with world.database.transaction() as tx:
                for provider in PROVIDERS:
                    last = await connect(tx, vault, owner, provider)
                await _revocations(tx, vault, last)
                await _instance(tx, vault, owner)
                await _authorization(tx, vault, owner)
        return world

    async def close(self) -> None:
        await self.database.close()

    @property
    def file(self) -> RingFile:
        return RingFile(self.settings.keyring_path, SecretStores(dict))

    def change_ring(self, *kids_to_destroy: str, rotate: bool = False) -> Keyring:
        """Writes another ring, as another process would."""
        ring = self.file.read()
        ring = ring.rotate() if rotate else ring
        for kid in kids_to_destroy:
            ring = ring.destroy(kid)
        self.file.write(ring)
        return ring

    async def rotated(self) -> str:
        """A new active key, known to this world's vault; nothing is sealed again yet."""
        self.change_ring(rotate=True)
        await self.vault.reload()
        return self.vault.keyring.active

    async def counts(self) -> dict[str, dict[str, int]]:
        async with self.database.reading() as tx:
            return {place: dict(by) for place, by in (await tx.sealed.counts()).items()}

    async def connections(self) -> list[Connection]:
        found: list[Connection] = []
        async with self.database.reading() as tx:
            for owner in self.owners:
                found += await tx.integrations.list(
                    tenant_id=owner.tenant_id, user_id=owner.user_id
                )
        return found

    async def everything(self) -> dict[str, str]:
        """All that is sealed, opened."""
        found: dict[str, str] = {}
        async with self.database.reading() as tx:
            for connection in await self.connections():
                envelope = await self.vault.open_envelope(tx, connection, renewing=True)
                for name, value in envelope.secrets.items():
                    found[f"{connection.id} {name}"] = value.get_secret_value()
            for owner in self.owners:
                found |= await self._others(tx, owner)
        return found

    async def _others(self, tx: Transaction, owner: Owner) -> dict[str, str]:
        tenant = {"tenant": owner.tenant_id}
        found = {}
        for query, bound, name in (
            ("id, gateway_token, 0 FROM instances", "{}", "gateway_token"),
            ("state_hash, verifier, 0 FROM oauth_transactions", "oauth:{}", "verifier"),
            ("connection_id, sealed, revision FROM pending_revocations", "{}", "revocation"),
            ("id, audit_key, 0 FROM (SELECT *, id AS tenant_id FROM tenants) t", "{}", "audit_key"),
        ):
            rows = await tx.session.execute(
                text(f"SELECT {query} WHERE tenant_id = :tenant"), tenant
            )
            for key, stored, revision in rows:
                found[f"{name} {key} {revision}"] = await self.vault.open_field(
                    tx, owner.tenant_id, bound.format(key), name, revision, stored
                )
        return found

    async def audited(self, owner: Owner, action: str) -> list[dict[str, object]]:
        async with self.database.reading() as tx:
            entries = await tx.audit.entries(tenant_id=owner.tenant_id, limit=500)
        return [{**e.metadata, "target": e.target} for e in entries if e.action == action]

    async def whole(self) -> bool:
        """Whether each tenant's audit log is whole and agrees with the rows."""
        async with self.database.reading() as tx:
            found = [(await tx.audit.verify(owner.tenant_id)).state for owner in self.owners]
        return found == [AuditState.WHOLE] * len(self.owners)

    async def change(self, statement: str, **values: object) -> None:
        """What somebody with access to the database does behind Aura's back."""
        async with self.database.transaction() as tx:
            await tx.session.execute(text(statement), values)


async def connect(tx: Transaction, vault: Vault, owner: Owner, provider: str) -> Connection:
    slot = await tx.integrations.reserve(
        tenant_id=owner.tenant_id, user_id=owner.user_id, provider=provider
    )
    sealed = {
        part: await vault.seal_field(
            tx,
            owner.tenant_id,
            slot.connection_id,
            part,
            slot.revision,
            f'{{"{part}": "{secrets.token_hex(8)}"}}',
        )
        for part in ("access_token", "refresh_token")
    }
    return await tx.integrations.upsert_connected(
        tenant_id=owner.tenant_id,
        user_id=owner.user_id,
        provider=provider,
        slot=slot,
        grant=Grant(
            tokens=SealedTokens(**sealed),
            token_expiry=tx.now + timedelta(days=1),
            scopes=(),
            auth_method="oauth2",
        ),
        actor="system",
    )


async def _instance(tx: Transaction, vault: Vault, owner: Owner) -> None:
    who = {"tenant_id": owner.tenant_id, "actor": "system"}
    agent = await tx.agents.create(
        user_id=owner.user_id,
        name="agent",
        compute="local",
        runtime="basic",
        persona={},
        permissions={},
        config={},
        **who,
    )
    instance = await tx.instances.create(agent_id=agent.id, compute="local", **who)
    token = await vault.seal_field(
        tx, owner.tenant_id, instance.id, "gateway_token", 0, secrets.token_hex(8)
    )
    await tx.session.execute(
        text("UPDATE instances SET gateway_token = :token WHERE id = :id"),
        {"token": token, "id": instance.id},
    )


async def _revocations(tx: Transaction, vault: Vault, connection: Connection) -> None:
    for later in (1, 2):
        await keep_tokens(
            tx,
            vault,
            connection,
            revision=connection.revision + later,
            secrets={"access_token": SecretStr(secrets.token_hex(8))},
            actor="system",
        )


async def _authorization(tx: Transaction, vault: Vault, owner: Owner) -> None:
    state_hash = secrets.token_hex(32)
    await tx.oauth.start(
        tenant_id=owner.tenant_id,
        user_id=owner.user_id,
        provider="acme",
        auth_method="oauth2",
        state_hash=state_hash,
        verifier=await vault.seal_field(
            tx, owner.tenant_id, f"oauth:{state_hash}", "verifier", 0, secrets.token_hex(8)
        ),
        binding_hash="",
        redirect_uri="https://aura.example/back",
        expires_at=tx.now + timedelta(minutes=10),
    )
