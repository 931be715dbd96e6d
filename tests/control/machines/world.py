"""The whole control plane in one process, with real databases and fake machines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy import update
from starlette.applications import Starlette

from aura_control.app import Outside, create_app
from aura_control.bootstrap import Owner, add_user
from aura_control.clients.vmd import VmdClient
from aura_control.composition import Services
from aura_control.db.models import Instance
from aura_control.services.composing import Composer
from aura_control.services.deliverer import Pace
from aura_control.settings import Settings
from aura_control.workflows.engine import Engine
from aura_control.workflows.machines import MachineSteps, Timings
from aura_control.workflows.operation import Waits
from aura_control.workflows.sweeps import Sweeper
from aura_core.api import http_client
from aura_core.compute import MachineRequest
from aura_core.registry import Registry
from tests.control.machines.vm import Clockwork, Network, Vm

QUICK = Waits(
    timings=Timings(join=900.0, healthy=30.0, retries=(0.01, 0.01), longest_wait=0.02),
    pace=Pace(first_retry=0.02, longest_retry=0.1, idle=0.5, drain=2.0),
    poll=0.01,
    sweep=3600.0,
)


@dataclass
class World:
    """A control plane that runs, two users who share nothing, and machines that boot."""

    app: Starlette
    settings: Settings
    registry: Registry
    network: Network
    clock: Clockwork
    http: httpx.AsyncClient
    other: httpx.AsyncClient
    anonymous: httpx.AsyncClient
    boots: bool = True
    """Whether new machines enrol by themselves."""
    vms: dict[str, Vm] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    owner: Owner = field(init=False)
    stranger: Owner = field(init=False)

    def sign_in(self, owner: Owner, stranger: Owner) -> None:
        self.owner, self.stranger = owner, stranger
        self.http.headers["Authorization"] = f"Bearer {owner.token}"
        self.other.headers["Authorization"] = f"Bearer {stranger.token}"

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    @property
    def engine(self) -> Engine:
        engine = self.services.workflows
        assert isinstance(engine, Engine)
        return engine

    @property
    def sweeper(self) -> Sweeper:
        """A sweeper of the test's own: the running one sweeps at the start only."""
        services = self.services
        composer = Composer(
            settings=services.settings,
            vault=services.vault,
            registry=services.registry,
            skills=services.skills,
        )
        steps = MachineSteps(
            database=services.database,
            vault=services.vault,
            composer=composer,
            providers=services.providers,
            computes=self.registry.computes(),
            deliverer=services.deliverer,
            timings=Timings(),
        )
        return Sweeper(
            services=services,
            engine=self.engine,
            steps=steps,
            computes=self.registry.computes(),
            every=60.0,
            grace=60.0,
        )

    @property
    def compute(self) -> Any:
        return self.registry.computes()["scripted"]

    def boot(self, request: MachineRequest) -> None:
        vm = Vm.from_user_data(request, self.anonymous, self.clock)
        self.vms[vm.instance_id] = vm
        self.network.vms[f"{request.name}.test"] = vm
        if self.boots:
            # A machine is another computer: it inherits nothing of the step that asked for it.
            self.tasks.append(asyncio.create_task(vm.boot(), context=Context()))

    async def deploy(self, **fields: Any) -> dict[str, Any]:
        body = {"name": "Robin", **fields}
        response = await self.http.post("/api/agents", json=body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def running(self, **fields: Any) -> tuple[dict[str, Any], Vm]:
        """An agent that runs, and its machine."""
        agent = await self.deploy(**fields)
        await self.until_state(agent["id"], "running")
        return agent, self.vms[agent["instance"]["id"]]

    async def agent(self, agent_id: str) -> dict[str, Any]:
        response = await self.http.get(f"/api/agents/{agent_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def until_state(self, agent_id: str, *states: str) -> dict[str, Any]:
        """Follows the agent's events until it is in one of the states."""

        async def look() -> dict[str, Any] | None:
            agent = await self.agent(agent_id)
            return agent if agent["state"] in states else None

        found: dict[str, Any] = await self.until(agent_id, look)
        return found

    async def until(self, agent_id: str, look: Callable[[], Awaitable[Any]]) -> Any:
        """Looks each time that something happens to the agent, until there is something to see."""
        with self.services.events.watch(agent_id) as watch:
            async with asyncio.timeout(60):
                while True:
                    seen = await look()
                    if seen:
                        return seen
                    await watch.wait(60)

    async def until_kind(self, agent_id: str, kind: str) -> None:
        """Waits for an event of that kind."""

        async def look() -> bool:
            return any(seen == kind for seen, _ in await self.events(agent_id))

        await self.until(agent_id, look)

    async def settled(self, agent_id: str) -> dict[str, Any]:
        """The agent, once its machine holds all that it should."""

        async def look() -> dict[str, Any] | None:
            agent = await self.agent(agent_id)
            rows = agent["deliveries"]
            return (
                agent if all(r["acked_revision"] == r["desired_revision"] for r in rows) else None
            )

        found: dict[str, Any] = await self.until(agent_id, look)
        return found

    async def instance(self, agent: dict[str, Any]) -> Instance:
        async with self.services.database.reading() as tx:
            return await tx.instances.get(
                tenant_id=self.owner.tenant_id, instance_id=agent["instance"]["id"]
            )

    async def events(self, agent_id: str) -> list[tuple[str, dict[str, Any]]]:
        async with self.services.database.reading() as tx:
            rows = await tx.events.after(
                tenant_id=self.owner.tenant_id, agent_id=agent_id, limit=1000
            )
        return [(row.kind, row.data) for row in rows]

    async def audited(self, action: str) -> list[dict[str, Any]]:
        """The entries of one action, oldest first."""
        async with self.services.database.reading() as tx:
            entries = await tx.audit.entries(tenant_id=self.owner.tenant_id, limit=1000)
        return [
            {"actor": e.actor, "target": e.target, **e.metadata}
            for e in reversed(entries)
            if e.action == action
        ]

    async def age_heartbeats(self, by: timedelta) -> None:
        """Makes it so long ago that any machine was heard of."""
        async with self.services.database.transaction() as tx:
            await tx.session.execute(
                update(Instance).values(last_heartbeat_at=tx.now - by),
                execution_options={"synchronize_session": False},
            )

    async def connect(self, key: str = "key-0123456789") -> dict[str, Any]:
        """Connects the notes by key; the caller lets the provider answer."""
        response = await self.http.post(
            "/api/integrations/notes", json={"fields": {"api_key": key}}
        )
        assert response.status_code == 201, response.text
        return dict(response.json())


def client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8700"
    )


@asynccontextmanager
async def open_world(
    settings: Settings,
    registry: Registry,
    *,
    waits: Waits = QUICK,
    owners: tuple[Owner, Owner] | None = None,
    boots: bool = True,
    drain: float = 5.0,
    http: Callable[[], httpx.AsyncClient] = http_client,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """A world for as long as the block runs; with ``owners``, one that goes on from before."""
    network, waits = Network(), replace(waits, drain=drain)
    async with AsyncExitStack() as stack:
        app = create_app(
            settings,
            registry,
            outside=Outside(
                http=http,
                machines=lambda: VmdClient(transport=network),
                environment=environment or {},
                waits=waits,
            ),
        )
        world = World(
            app=app,
            settings=settings,
            registry=registry,
            network=network,
            clock=Clockwork(int(time.time() * 1000)),
            http=await stack.enter_async_context(client(app)),
            other=await stack.enter_async_context(client(app)),
            anonymous=await stack.enter_async_context(client(app)),
            boots=boots,
        )
        registry.computes()["scripted"].boot = world.boot  # type: ignore[attr-defined]
        await stack.enter_async_context(app.router.lifespan_context(app))
        if owners is None:
            database = app.state.services.database
            owners = (
                await add_user(database, tenant_name="one", email="one@example.org"),
                await add_user(database, tenant_name="two", email="two@example.org"),
            )
        world.sign_in(*owners)
        yield world
        world.boots = False
        for task in world.tasks:
            task.cancel()
        for outcome in await asyncio.gather(*world.tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
