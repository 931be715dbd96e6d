"""The composition root: everything is made here, in order, and closed in the opposite one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from aura_control.bootstrap import load_vault, open_checkpoints
from aura_control.clients.locks import FileLocks
from aura_control.clients.registered import RegisteredClients
from aura_control.clients.session_locks import PostgresLocks
from aura_control.clients.vmd import VmdClient
from aura_control.composition import Services
from aura_control.db.columns import utc_now
from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.db.schema import require_current_schema
from aura_control.metrics import Metrics
from aura_control.middleware import Observed
from aura_control.ports import Clock, Locks
from aura_control.problems import problem_response
from aura_control.routes import routes
from aura_control.services.checkpoints import Checkpointer
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.refresh import Refresher
from aura_control.services.retention import Pruner
from aura_control.services.revocation import Revoker
from aura_control.services.sweep import Sweeper
from aura_control.services.tenants import TenantRemover
from aura_control.services.watching import Watchers
from aura_control.settings import Settings
from aura_control.web.pages import Pages
from aura_control.workflows.operation import Waits, compose_operation
from aura_core.api import http_client
from aura_core.errors import AuraError
from aura_core.registry import Registry

__all__ = ["Outside", "create_app"]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What the control plane finds outside itself."""

    http: Callable[[], httpx.AsyncClient] | None = None
    """Makes the client for providers; without one it is Aura's own, by the settings."""
    machines: Callable[[], VmdClient] = VmdClient
    """Makes the client for machines' daemons."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    clock: Clock = utc_now
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits (seconds) between tries with the same refresh token."""
    waits: Waits = field(default_factory=Waits)
    """How long machines, and what is done for them, may take."""


def create_app(
    settings: Settings, registry: Registry, *, outside: Outside | None = None
) -> Starlette:
    """The control plane as an ASGI application; what it needs is opened by its lifespan.

    Raises ConfigurationError, here or when it starts.
    """
    vault, metrics = load_vault(settings, registry.secret_stores), Metrics()
    compose = partial(
        _services,
        settings=settings,
        registry=registry,
        vault=vault,
        metrics=metrics,
        outside=outside or Outside(),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                services = await stack.enter_async_context(compose())
            except Exception as error:
                # The server says of it only that starting failed.
                app.state.failure = error
                raise
            app.state.services = services
            app.state.pages = Pages(origin=settings.public_url)
            yield

    return Starlette(
        routes=routes(),
        lifespan=lifespan,
        middleware=[Middleware(Observed, metrics=metrics)],
        exception_handlers={AuraError: problem_response, HTTPException: problem_response},
    )


@asynccontextmanager
async def _services(
    *, settings: Settings, registry: Registry, vault: Vault, metrics: Metrics, outside: Outside
) -> AsyncIterator[Services]:
    await require_current_schema(settings.database)
    async with AsyncExitStack() as stack:
        events = Watchers()
        database = Database.open(
            settings.database,
            audit_key=vault.audit_key,
            clock=outside.clock,
            published=events.notify,
        )
        stack.push_async_callback(database.close)
        make_http = outside.http or partial(http_client, private_hosts=settings.private_hosts)
        http = await stack.enter_async_context(make_http())
        clients = RegisteredClients(outside.environment)
        providers = Providers(registry=registry, http=http, clients=clients, clock=outside.clock)
        locks = _locks(settings, database, stack)
        machines = outside.machines()
        stack.push_async_callback(machines.aclose)
        operation = compose_operation(
            settings=settings,
            database=database,
            vault=vault,
            registry=registry,
            providers=providers,
            machines=machines,
            clock=outside.clock,
            waits=outside.waits,
        )
        deliverer = operation.deliverer

        def refreshed(connection: Connection) -> None:
            if connection.state is ConnectionState.DISCONNECTED:
                revoker.wake()  # it ended meanwhile: what the renewal brought is to be revoked
                return
            deliverer.wake()
            sweeper.wake()
            registry.notify(
                "aura_refreshed",
                provider=connection.provider,
                user_id=connection.user_id,
                connection_id=connection.id,
            )

        revoker = Revoker(
            database=database, vault=vault, providers=providers, locks=locks, clock=outside.clock
        )
        refresher = Refresher(
            database=database,
            vault=vault,
            providers=providers,
            locks=locks,
            clock=outside.clock,
            refreshed=refreshed,
            pause=outside.pause,
        )
        sweeper = Sweeper(
            database=database,
            refresher=refresher,
            clock=outside.clock,
        )
        services = Services(
            settings=settings,
            clock=outside.clock,
            database=database,
            registry=registry,
            vault=vault,
            http=http,
            oauth_clients=clients,
            providers=providers,
            locks=locks,
            refresher=refresher,
            renewals=sweeper,
            revoker=revoker,
            skills=operation.skills,
            sealer=operation.sealer,
            deliverer=deliverer,
            machines=machines,
            workflows=operation.engine,
            events=events,
            metrics=metrics,
        )
        await stack.enter_async_context(operation.running(services))
        # Last opened, first closed: no new refreshes, and those under way are stored, while all
        # that they need is still open.
        stack.push_async_callback(revoker.drain)
        await _background(stack, revoker.run(), revoker.close)
        stack.push_async_callback(refresher.drain)
        await _background(stack, sweeper.run(), sweeper.close)
        remover = TenantRemover(services)
        await _background(stack, remover.run(), remover.close)
        checkpointer = Checkpointer(
            database=database,
            place=await asyncio.to_thread(open_checkpoints, settings, registry),
            signing=vault.signing,
            clock=outside.clock,
        )
        await _background(stack, checkpointer.run(), checkpointer.close)
        pruner = Pruner(database=database)
        await _background(stack, pruner.run(), pruner.close)
        await _background(stack, vault.watch(), vault.close)
        stack.callback(events.close)
        yield services


async def _background(
    stack: AsyncExitStack, work: Awaitable[None], close: Callable[[], Awaitable[None] | None]
) -> None:
    """Runs ``work`` until ``close`` is called at the end, and waits for it to return."""
    task = asyncio.ensure_future(work)

    async def end() -> None:
        closing = close()
        if closing is not None:
            await closing
        await task

    stack.push_async_callback(end)


def _locks(settings: Settings, database: Database, stack: AsyncExitStack) -> Locks:
    if database.dialect == "sqlite":
        return FileLocks(settings.data_dir / "locks")
    locks = PostgresLocks(settings.database)
    stack.push_async_callback(locks.aclose)
    return locks
