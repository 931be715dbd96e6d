"""A control plane in which something can be damaged: a connection, and an agent that runs."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import MetaData, select

from aura_control.bootstrap import ensure_keys
from aura_control.db.columns import Base
from aura_control.db.schema import migrate
from aura_control.settings import Settings
from aura_core.compute import HostContext
from aura_core.registry import Registry
from tests.control.connections.manifests import write_manifests
from tests.control.connections.provider import Provider
from tests.control.machines.vm import Vm
from tests.control.machines.world import World, open_world

PLUGINS = Path(__file__).parents[1] / "machines" / "plugin"


@dataclass
class Surface:
    """The world, its owner's agent and machine, and the provider outside."""

    world: World
    provider: Provider
    agent_id: str
    vm: Vm

    async def everything(self) -> str:
        """All that the database holds, as one digest."""
        metadata: MetaData = Base.metadata
        digest = hashlib.sha256()
        async with self.world.services.database.reading() as tx:
            for table in metadata.sorted_tables:
                rows = await tx.session.execute(select(table))
                digest.update(f"{table.name}{sorted(map(repr, rows))}".encode())
        return digest.hexdigest()

    @property
    def owner(self) -> httpx.AsyncClient:
        return self.world.http

    @property
    def stranger(self) -> httpx.AsyncClient:
        return self.world.other

    @property
    def nobody(self) -> httpx.AsyncClient:
        return self.world.anonymous


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blank") / "aura.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
async def surface(
    tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Surface]:
    settings = Settings(
        data_dir=tmp_path / "data", default_compute="scripted", default_runtime="quiet"
    )
    await ensure_keys(settings)
    shutil.copy(blank, settings.data_dir / "aura.db")
    monkeypatch.syspath_prepend(str(PLUGINS))
    registry = Registry.discover(
        manifest_dirs=[write_manifests(tmp_path / "manifests")],
        entry_points=[EntryPoint(name="notes", value="aura_test_notes", group="aura.plugins")],
        context=HostContext(data_dir=tmp_path / "machines"),
    )
    provider = Provider()
    async with open_world(
        settings,
        registry,
        http=provider.client,
        environment={"ACME_CLIENT_ID": "aura", "ACME_CLIENT_SECRET": "the-client-secret"},
    ) as world:
        left = await world.http.get("/api/integrations/acme")
        back: Any = provider.consent(left.headers["location"], "one@example.org")
        done = await world.http.get("/api/integrations/acme/callback", params=back)
        assert done.status_code == 200, done.text
        agent, vm = await machine(world)
        provider.calls.clear()
        yield Surface(world=world, provider=provider, agent_id=agent["id"], vm=vm)


async def machine(world: World) -> tuple[dict[str, Any], Vm]:
    """A running agent whose machine holds what it should. What comes after a machine's first
    report is seen at the next one."""
    agent = await world.deploy()
    await world.until_kind(agent["id"], "instance.enrolling")
    await asyncio.gather(*world.tasks)
    await world.settled(agent["id"])
    vm = world.vms[agent["instance"]["id"]]
    await vm.heartbeat()
    await world.until_state(agent["id"], "running")
    return agent, vm
