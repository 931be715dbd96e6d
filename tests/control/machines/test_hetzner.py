"""The control plane and the compute ``hetzner`` together: from payment to nothing left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from aura_control.settings import Settings
from aura_core.compute import HostContext, MachineRequest
from aura_core.registry import Registry
from tests.control.machines.world import World, open_world
from tests.fakes.hetzner.goods import pricing, server_types
from tests.fakes.hetzner.project import Fault, Project
from tests.fakes.hetzner.serving import serving


@pytest.fixture
def project() -> Iterator[Project]:
    """Its servers run at once: what is waited for here is the control plane."""
    made = Project(clock=time.monotonic, types=server_types(), pricing=pricing(), start_seconds=0.0)
    made.add_image("debian-12", type="system")
    yield made
    assert made.wrong == []


@pytest.fixture
def registry(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugin"))
    points = [
        EntryPoint(name="notes", value="aura_test_notes", group="aura.plugins"),
        EntryPoint(name="hetzner", value="aura_plugin_hetzner", group="aura.plugins"),
    ]
    with serving(project) as endpoint:
        names = {
            "AURA_HETZNER_TOKEN": project.token,
            "AURA_HETZNER_ENDPOINT": endpoint,
            "AURA_HETZNER_TYPES": "cx23,cpx12",
        }
        context = HostContext(data_dir=tmp_path / "machines", settings=names)
        yield Registry.discover(entry_points=points, context=context)


@pytest.fixture
async def world(settings: Settings, registry: Registry, project: Project) -> AsyncIterator[World]:
    cloud = settings.model_copy(update={"default_compute": "hetzner"})
    async with open_world(cloud, registry) as world:
        loop = asyncio.get_running_loop()

        def boot(server: dict[str, Any]) -> None:
            address = project.addresses[server["addresses"]["ipv4"]]["ip"]
            loop.call_soon_threadsafe(start, server, address)

        def start(server: dict[str, Any], address: str) -> None:
            asked = MachineRequest(
                name=server["name"], user_data=server["user_data"], labels=server["labels"]
            )
            world.boot(asked)
            world.network.vms[address] = world.network.vms[f"{server['name']}.test"]

        project.boot = boot
        yield world


NOTHING = {"servers": 0, "addresses": 0, "firewalls": 0, "groups": 0, "images": 1}


async def test_an_agent_runs_on_a_server_and_leaves_nothing(world: World, project: Project) -> None:
    agent, vm = await world.running()
    (server,) = project.servers.values()
    assert server["name"] == agent["instance"]["machine_name"]
    assert server["labels"] == {
        "aura-instance": agent["instance"]["id"],
        "aura-agent": agent["id"],
        "managed-by": "aura",
    }
    assert (await world.instance(agent)).external_id == f"hetzner:{server['id']}"
    assert vm.held["policy"].content is not None  # a message came to the server's address
    await world.http.delete(f"/api/agents/{agent['id']}")

    async def gone() -> bool:
        return (await world.http.get(f"/api/agents/{agent['id']}")).status_code == 404

    await world.until(agent["id"], gone)
    assert project.books == NOTHING


async def test_a_server_whose_answer_was_lost_is_the_agents(world: World, project: Project) -> None:
    project.faults.append(
        Fault(method="POST", path="/servers", status=504, code="timeout", done=True)
    )
    await world.running()
    assert project.calls["POST /servers"] == project.most_servers_seen == 1


async def test_a_refusal_reaches_the_user_and_nothing_stays(world: World, project: Project) -> None:
    project.most_servers = 0
    agent = await world.deploy()
    failed = await world.until_state(agent["id"], "failed")
    assert "has reached its limit (server_limit). Destroy machines" in failed["state_reason"]
    await world.until_kind(agent["id"], "instance.machine_destroyed")
    assert project.books == NOTHING
