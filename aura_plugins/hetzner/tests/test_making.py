"""Machines are made once, adopted by name, and found by one list."""

from __future__ import annotations

import pytest
from aura_plugin_hetzner.compute import HetznerCompute

from aura_core.errors import ComputeError
from aura_plugins.hetzner.tests.projects import Make, request
from tests.fakes.hetzner.project import Fault, Project


async def test_a_machine_is_a_running_server_with_our_labels(
    compute: HetznerCompute, project: Project
) -> None:
    machine = await compute.create(request())
    (server,) = project.servers.values()
    assert machine.name == server["name"] == request().name
    assert machine.external_id == f"hetzner:{server['id']}"
    assert machine.state == "running"
    assert machine.push_url == f"http://192.0.2.{server['addresses']['ipv4'] % 250}"
    assert machine.created_at is not None
    assert server["labels"] == {**request().labels, "managed-by": "aura"}
    assert server["user_data"] == request().user_data
    assert await compute.find(machine.name) == machine
    assert await compute.machines() == [machine]
