"""One token renewed: lock, durable intent, the call, the new tokens sealed and committed.

The refresher is the control plane's own, on its default database: SQLite, where a commit that
returned is on the disk. Two limits: the bare token call, which is what any refresh takes; and that
with a small commit before and one after it, which is what any refresh takes that cannot lose
tokens by a crash. Both sides call the same provider, in a process of its own, over kept
connections. With sixteen at once, the commits of both wait for each other: SQLite has one writer.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
from pydantic import SecretStr

from aura_control.bootstrap import add_user, ensure_keys, load_vault
from aura_control.clients.locks import FileLocks
from aura_control.clients.registered import RegisteredClients
from aura_control.db.columns import utc_now
from aura_control.db.connection import Connection, Grant
from aura_control.db.engine import Database
from aura_control.db.schema import migrate
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.refresh import Refresher
from aura_control.settings import Settings, load_settings
from aura_core.api import http_client
from aura_core.registry import Registry
from benchmarks.measuring import Effort, Figure, by_turns_async, figure
from benchmarks.processes import bare_process

__all__ = ["measure"]

_AT_ONCE = 16
_FORM = {"grant_type": "refresh_token", "refresh_token": "r" * 64, "client_id": "aura"}
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

Work = Callable[[int], Awaitable[None]]
"""One refresh, of the connection with that number."""


@dataclass
class _Clock:
    """Jumps from one end of the tokens to the next, so that each of them is due again."""

    now: datetime = field(default_factory=utc_now)

    def __call__(self) -> datetime:
        return self.now


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for one refresh, alone and as one of sixteen at once."""
    return asyncio.run(_measure(effort))


async def _measure(effort: Effort) -> Sequence[Figure]:
    with tempfile.TemporaryDirectory(prefix="aura-") as name:
        directory = Path(name)
        async with bare_process(directory) as bare, http_client() as http:
            origin = f"http://{bare.status}"
            async with _refresher(directory, origin, http) as (refreshes, clock):
                with closing(_database(directory / "bare.db")) as commits:
                    call, stored = _call(http, origin), _stored(http, origin, commits)
                    alone = await by_turns_async(
                        effort.rounds,
                        _one_by_one(effort.calls, refreshes, clock),
                        _one_by_one(effort.calls, call),
                        _one_by_one(effort.calls, stored),
                    )
                    together = await by_turns_async(
                        effort.rounds,
                        _at_once(effort.calls, refreshes, clock),
                        _at_once(effort.calls, stored),
                    )
    with_commits = "that, a commit before and one after"
    return [
        figure("one", limit="httpx, POST /token", unit="ms", aura=alone[0], bare=alone[1]),
        figure("one, durable", limit=with_commits, unit="ms", aura=alone[0], bare=alone[2]),
        figure(
            f"{_AT_ONCE} at once", limit=with_commits, unit="ms", aura=together[0], bare=together[1]
        ),
    ]


def _one_by_one(
    calls: int, work: Work, clock: _Clock | None = None
) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        began = time.perf_counter_ns()
        for _ in range(calls):
            _forward(clock)
            await work(0)
        return (time.perf_counter_ns() - began) / calls / 1e6

    return sample


def _at_once(calls: int, work: Work, clock: _Clock | None = None) -> Callable[[], Awaitable[float]]:
    rounds = -(-calls // _AT_ONCE)

    async def sample() -> float:
        began = time.perf_counter_ns()
        for _ in range(rounds):
            _forward(clock)
            await asyncio.gather(*(work(number) for number in range(_AT_ONCE)))
        return (time.perf_counter_ns() - began) / rounds / _AT_ONCE / 1e6

    return sample


def _forward(clock: _Clock | None) -> None:
    if clock is not None:
        clock.now += timedelta(minutes=59)


def _call(http: httpx.AsyncClient, origin: str) -> Work:
    async def call(_: int) -> None:
        answer = await http.post(f"{origin}/token", data=_FORM)
        answer.json()

    return call


def _database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for statement in (
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "CREATE TABLE tokens (id INTEGER PRIMARY KEY, value TEXT)",
    ):
        connection.execute(statement)
    return connection


def _stored(http: httpx.AsyncClient, origin: str, database: sqlite3.Connection) -> Work:
    turn = asyncio.Lock()

    def write(number: int, value: str) -> None:
        database.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?)", (number, value))

    async def refresh(number: int) -> None:
        async with turn:
            await asyncio.to_thread(write, number, "begun")
        answer = await http.post(f"{origin}/token", data=_FORM)
        async with turn:
            await asyncio.to_thread(write, number, answer.text)

    return refresh


@asynccontextmanager
async def _refresher(
    directory: Path, origin: str, http: httpx.AsyncClient
) -> AsyncIterator[tuple[Work, _Clock]]:
    settings = load_settings(data_dir=directory / "data", database_url=None)
    await ensure_keys(settings)
    await migrate(settings.database)
    manifests = directory / "manifests"
    manifests.mkdir()
    (manifests / "acme.toml").write_text(_MANIFEST.format(origin=origin))
    registry = Registry.discover(
        manifest_dirs=[manifests], allow_loopback_http=True, entry_points=()
    )
    clock, vault = _Clock(), load_vault(settings)
    database = Database.open(settings.database, audit_key=vault.audit_key, clock=clock)
    try:
        connections = [
            await _connected(database, vault, registry, number) for number in range(_AT_ONCE)
        ]
        refresher = _composed(settings, database, vault, registry, http, clock)

        async def refresh(number: int) -> None:
            connection = connections[number]
            renewed = await refresher.refresh(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )
            if renewed.revision == connections[number].revision:
                raise RuntimeError("nothing was renewed")
            connections[number] = renewed

        yield refresh, clock
    finally:
        await database.close()


def _composed(
    settings: Settings,
    database: Database,
    vault: Vault,
    registry: Registry,
    http: httpx.AsyncClient,
    clock: _Clock,
) -> Refresher:
    clients = RegisteredClients({**os.environ, "ACME_CLIENT_ID": "aura"})
    return Refresher(
        database=database,
        vault=vault,
        providers=Providers(registry=registry, http=http, clients=clients, clock=clock),
        locks=FileLocks(settings.data_dir / "locks"),
        clock=clock,
        refreshed=lambda _: None,
    )


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
