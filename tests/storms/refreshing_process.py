"""One process that refreshes: the control plane's own parts, put together as its app does.

    python -m tests.storms.refreshing_process

The first line on standard input is a JSON document: ``data_dir``, ``database``, ``manifests``,
``clients`` (what the operator set for providers), ``sweeps``, and ``stops``: the step at which the
renewal of a connection (by id) stands still until the process is killed. What stands still is put
around the ports from outside: the locks, the wire, the database's commit. Each further line is a
number, so many callers who want the tokens of all connections at the same time, or ``sweep``: look
at once for what is due. Each line on standard output is a JSON document.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx

from aura_control.bootstrap import load_vault
from aura_control.clients.locks import FileLocks
from aura_control.clients.registered import RegisteredClients
from aura_control.clients.session_locks import PostgresLocks
from aura_control.composition import Services
from aura_control.db.columns import utc_now
from aura_control.db.connection import Connection
from aura_control.db.engine import Database, open_engine
from aura_control.db.transaction import Transaction
from aura_control.ports import Locks
from aura_control.services.providers import Providers
from aura_control.services.refresh import Refresher, fresh_envelope
from aura_control.services.sweep import Sweeper
from aura_control.settings import Settings, load_settings
from aura_core.api import http_client
from aura_core.errors import AuraError
from aura_core.registry import Registry

__all__ = ["STEPS", "main"]

STEPS = ("locked", "intended", "asked", "acted", "answered", "committing", "committed")
"""Before the intent, after its commit, at the provider before and after it acted (these two are the
provider's to hold), with the answer in hand, before and after its commit."""

_step: ContextVar[str | None] = ContextVar("step", default=None)


def say(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def stand_still_at(step: str) -> None:
    if _step.get() == step:
        say(at=step)
        await asyncio.Event().wait()


class StoppingLocks:
    """The locks, and for each connection the step that its renewal gets to."""

    def __init__(self, locks: Locks, stops: Mapping[str, str]) -> None:
        self._locks = locks
        self._stops = stops

    @asynccontextmanager
    async def hold(self, name: str, *, wait: float | None = None) -> AsyncIterator[None]:
        async with self._locks.hold(name, wait=wait):
            _step.set(self._stops.get(name.removeprefix("connection-")))
            await stand_still_at("locked")
            yield


class StoppingWire(httpx.AsyncBaseTransport):
    """The real wire, with a stop at both of its ends."""

    def __init__(self) -> None:
        self._wire = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await stand_still_at("intended")
        request.headers["X-Process"] = str(os.getpid())
        response = await self._wire.handle_async_request(request)
        await response.aread()
        await stand_still_at("answered")
        return response

    async def aclose(self) -> None:
        await self._wire.aclose()


class StoppingDatabase(Database):
    """The real database, with a stop before the commit of new tokens."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with super().transaction() as tx:
            yield tx
            if _step.get() == "committing" and _stores_tokens(tx):
                await stand_still_at("committing")


def _stores_tokens(tx: Transaction) -> bool:
    return any("connection.refreshed" in entry.text for entry in tx.journal._entries)


def committed(_: Connection) -> None:
    if _step.get() == "committed":
        say(at="committed")
        signal.pause()


async def main() -> None:
    lines = await _standard_input()
    given = await lines.readline()
    if given:  # one that is never needed is told nothing
        await _run(json.loads(given), lines)


async def _run(config: Mapping[str, Any], lines: asyncio.StreamReader) -> None:
    settings = load_settings(data_dir=Path(config["data_dir"]), database_url=config["database"])
    vault = load_vault(settings)
    database = StoppingDatabase(
        open_engine(settings.database),
        audit_key=vault.audit_key,
        clock=utc_now,
        published=lambda _: None,
    )
    registry = Registry.discover(
        manifest_dirs=[config["manifests"]], allow_loopback_http=True, entry_points=()
    )
    async with _stack(settings, database) as (locks, http):
        providers = Providers(
            registry=registry,
            http=http,
            clients=RegisteredClients(config["clients"]),
            clock=utc_now,
        )
        refresher = Refresher(
            database=database,
            vault=vault,
            providers=providers,
            locks=StoppingLocks(locks, config["stops"]),
            clock=utc_now,
            refreshed=committed,
        )
        services = SimpleNamespace(
            database=database, vault=vault, providers=providers, refresher=refresher, clock=utc_now
        )
        sweeper = Sweeper(database=database, refresher=refresher, clock=utc_now)
        sweeping = asyncio.create_task(sweeper.run()) if config["sweeps"] else None
        say(ready=os.getpid())
        while line := (await lines.readline()).strip():
            if line == b"sweep":
                sweeper.wake()
            else:
                say(**await _wanted(cast("Services", services), int(line)))
        sweeper.close()
        if sweeping is not None:
            await sweeping
        await refresher.drain()


@asynccontextmanager
async def _stack(
    settings: Settings, database: Database
) -> AsyncIterator[tuple[Locks, httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        http = await stack.enter_async_context(http_client(transport=StoppingWire()))
        if database.dialect == "sqlite":
            yield FileLocks(settings.data_dir / "locks"), http
            return
        locks = PostgresLocks(settings.database)
        stack.push_async_callback(locks.aclose)
        yield locks, http


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _wanted(services: Services, callers: int) -> dict[str, Any]:
    """So many callers for each connection; how many got which token, and what the others got."""
    async with services.database.reading() as tx:
        connections = [
            connection
            for tenant in await tx.tenants.list()
            for user in await tx.users.list(tenant_id=tenant.id)
            for connection in await tx.integrations.list(tenant_id=tenant.id, user_id=user.id)
        ]
    answers = await asyncio.gather(
        *(_one(services, connection) for connection in connections for _ in range(callers))
    )
    return {"answers": Counter(answers)}


async def _one(services: Services, connection: Connection) -> str:
    try:
        envelope = await fresh_envelope(services, connection.tenant_id, connection)
    except AuraError as error:
        return f"{type(error).__name__}: {error.message}"
    assert envelope.access_token is not None
    return hashlib.sha256(envelope.access_token.get_secret_value().encode()).hexdigest()


if __name__ == "__main__":
    asyncio.run(main())
