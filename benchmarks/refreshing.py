"""A refresher, composed as the control plane's app composes it, with connections that are due."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
from pydantic import SecretStr

from aura_control.bootstrap import add_user, ensure_keys, load_vault
from aura_control.clients.locks import FileLocks
from aura_control.clients.registered import RegisteredClients
from aura_control.clients.session_locks import PostgresLocks
from aura_control.db.columns import utc_now
from aura_control.db.connection import Connection, Grant
from aura_control.db.engine import Database
from aura_control.db.schema import migrate
from aura_control.ports import Locks
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.refresh import Refresher
from aura_control.settings import Settings, load_settings
from aura_core.registry import Registry

__all__ = ["Refreshing", "refreshing"]

_MANIFEST = """
id = "acme"
name = "Acme"
category = "testing"
hosts = ["127.0.0.1"]
[api]
base_url = "{origin}"
[[auth]]
strategy = "oauth2"
scopes = []
client = {{ id_env = "ACME_CLIENT_ID" }}
[auth.authorization]
url = "{origin}/authorize"
[auth.token]
url = "{origin}/token"
auth = "none"
"""


@dataclass
class _Clock:
    now: datetime = field(default_factory=utc_now)

    def __call__(self) -> datetime:
        return self.now


@dataclass(kw_only=True)
class Refreshing:
    """Connections, each of a tenant of its own, and what renews them."""

    refresher: Refresher
    connections: list[Connection]
    clock: _Clock

    def forward(self) -> None:
        """Jumps to the end of the tokens' hour: all of them are due again."""
        self.clock.now += timedelta(minutes=59)

    async def refresh(self, number: int) -> None:
        """Renews the connection with that number."""
        before = self.connections[number]
        renewed = await self.refresher.refresh(tenant_id=before.tenant_id, connection_id=before.id)
        if renewed.revision == before.revision:
            raise RuntimeError("nothing was renewed")
        self.connections[number] = renewed


@asynccontextmanager
async def refreshing(
    directory: Path, origin: str, http: httpx.AsyncClient, *, url: str | None, count: int
) -> AsyncIterator[Refreshing]:
    """``count`` connections at the provider at ``origin``, in the database at ``url`` or in SQLite
    in the directory."""
    settings = load_settings(data_dir=directory / "data", database_url=url)
    await ensure_keys(settings)
    await migrate(settings.database)
    manifests = directory / "manifests"
    manifests.mkdir()
    (manifests / "acme.toml").write_text(_MANIFEST.format(origin=origin))
    registry = Registry.discover(
        manifest_dirs=[manifests], allow_loopback_http=True, entry_points=()
    )
    clock, vault = _Clock(), load_vault(settings)
    async with AsyncExitStack() as stack:
        database = Database.open(settings.database, audit_key=vault.audit_key, clock=clock)
        stack.push_async_callback(database.close)
        clients = RegisteredClients({**os.environ, "ACME_CLIENT_ID": "aura"})
        yield Refreshing(
            connections=[
                await _connected(database, vault, registry, number) for number in range(count)
            ],
            clock=clock,
            refresher=Refresher(
                database=database,
                vault=vault,
                providers=Providers(registry=registry, http=http, clients=clients, clock=clock),
                locks=_locks(stack, settings, database),
                clock=clock,
                refreshed=lambda _: None,
            ),
        )


def _locks(stack: AsyncExitStack, settings: Settings, database: Database) -> Locks:
    if database.dialect == "sqlite":
        return FileLocks(settings.data_dir / "locks")
    locks = PostgresLocks(settings.database)
    stack.push_async_callback(locks.aclose)
    return locks


async def _connected(
    database: Database, vault: Vault, registry: Registry, number: int
) -> Connection:
    """A connection of a tenant of its own."""
    owner = await add_user(database, tenant_name="Ada", email=f"ada{number}@example.org")
    where = {"tenant_id": owner.tenant_id, "user_id": owner.user_id, "provider": "acme"}
    secrets = {name: SecretStr("r" * 64) for name in ("access_token", "refresh_token")}
    async with database.transaction() as tx:
        slot = await tx.integrations.reserve(**where)
        tokens = await vault.seal_tokens(
            tx,
            tenant_id=owner.tenant_id,
            slot=slot,
            method=registry.get("acme").auth[0],
            secrets=secrets,
        )
        grant = Grant(
            tokens=tokens, token_expiry=tx.now, renew_at=tx.now, scopes=(), auth_method="oauth2"
        )
        return await tx.integrations.upsert_connected(
            **where, slot=slot, grant=grant, actor="system"
        )
