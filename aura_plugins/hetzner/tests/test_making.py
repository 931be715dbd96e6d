"""Machines are made once, adopted by name, and found by one list."""

from __future__ import annotations

import asyncio

import pytest
from aura_plugin_hetzner.compute import HetznerCompute

from aura_core.errors import ComputeError
from aura_plugins.hetzner.tests.projects import Make, request
from tests.fakes.hetzner.clock import VirtualClock
from tests.fakes.hetzner.project import Fault, Project

IMPATIENT = (5.0, 0.3)


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


async def test_what_was_made_although_nobody_answered_is_adopted(
    make: Make, project: Project
) -> None:
    project.faults.append(Fault(method="POST", path="/servers", done=True))
    machine = await make(timeout=IMPATIENT).create(request())
    (server,) = project.servers.values()
    assert machine.external_id == f"hetzner:{server['id']}"
    assert machine.state == "running"
    # hcloud by itself would have sent it six times.
    assert project.calls["POST /servers"] == 1


async def test_what_was_not_made_is_asked_for_again_by_the_caller(
    make: Make, project: Project
) -> None:
    project.faults.append(Fault(method="POST", path="/servers"))
    compute = make(timeout=IMPATIENT)
    with pytest.raises(ComputeError, match="did not say") as caught:
        await compute.create(request())
    assert caught.value.retryable
    assert project.calls["POST /servers"] == 1
    await compute.create(request())
    assert len(project.servers) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(504, "timeout"), (502, "bad_gateway"), (500, "server_error")]
)
async def test_a_post_is_not_repeated_when_nobody_knows_what_it_did(
    compute: HetznerCompute, project: Project, status: int, code: str
) -> None:
    project.faults.append(Fault(method="POST", path="/servers", status=status, code=code))
    with pytest.raises(ComputeError, match=code) as caught:
        await compute.create(request())
    assert caught.value.retryable
    assert project.calls["POST /servers"] == 1


@pytest.mark.parametrize(
    ("status", "code"), [(409, "conflict"), (423, "locked"), (429, "rate_limit_exceeded")]
)
async def test_a_post_that_was_refused_beforehand_is_repeated(
    compute: HetznerCompute, project: Project, status: int, code: str
) -> None:
    project.faults.append(Fault(method="POST", path="/servers", status=status, code=code, times=2))
    await compute.create(request())
    assert project.calls["POST /servers"] == 3


async def test_two_processes_that_make_the_same_machine_get_the_same(
    make: Make, project: Project
) -> None:
    one, two = await asyncio.gather(make().create(request()), make().create(request()))
    assert one == two
    assert project.most_servers_seen == 1


async def test_making_a_machine_again_costs_no_request_of_its_own(
    compute: HetznerCompute, project: Project
) -> None:
    first = await compute.create(request())
    assert await compute.create(request()) == first
    assert project.calls["POST /servers"] == 1


async def test_a_server_that_is_not_auras_is_left_alone(make: Make, project: Project) -> None:
    await make().create(request())
    (server,) = project.servers.values()
    server["labels"] = {"owner": "somebody"}
    before = dict(server)
    compute = make()
    for attempt in (compute.create(request()), compute.destroy(request().name)):
        with pytest.raises(ComputeError, match="not Aura's") as caught:
            await attempt
        assert not caught.value.retryable
    assert await compute.find(request().name) is None
    assert list(project.servers.values()) == [before]


async def test_another_agents_server_is_not_adopted(make: Make, project: Project) -> None:
    await make().create(request())
    with pytest.raises(ComputeError, match="another agent's"):
        await make().create(request(labels={"aura-instance": "f" * 32, "aura-agent": "0"}))
    assert len(project.servers) == 1


async def test_a_machine_that_is_off_is_started(make: Make, project: Project) -> None:
    await make().create(request())
    (server,) = project.servers.values()
    server["off"] = True
    assert [machine.state for machine in await make().machines()] == ["off"]
    machine = await make().create(request())
    assert machine.state == "running"
    assert project.calls["POST /servers/{id}/actions/poweron"] == 1


async def test_a_server_that_hetzner_could_not_start_is_removed(
    compute: HetznerCompute, project: Project
) -> None:
    project.action_errors[request().name] = "host_failure"
    with pytest.raises(ComputeError, match="host_failure") as caught:
        await compute.create(request())
    assert caught.value.retryable
    assert project.servers == {}
    project.never_start.clear()
    await compute.create(request())
    assert len(project.servers) == 1


async def test_a_server_that_never_starts_is_given_up_before_the_step_ends(
    compute: HetznerCompute, project: Project
) -> None:
    begun = project.clock()
    project.never_start.add(request().name)
    with pytest.raises(ComputeError, match="did not start within 180 seconds") as caught:
        await compute.create(request())
    assert not caught.value.retryable
    assert 180 < project.clock() - begun < 200
    await compute.destroy(request().name)
    assert set(project.books.values()) == {0, 2}  # the two images that Hetzner has


async def test_all_who_look_share_one_list(compute: HetznerCompute, project: Project) -> None:
    await compute.create(request())
    before = project.calls["GET /servers"]
    found = await asyncio.gather(*(compute.find(request(n).name) for n in range(1, 101)))
    assert [machine is not None for machine in found] == [True] + [False] * 99
    assert project.calls["GET /servers"] <= before + 1


async def test_lists_are_read_to_their_last_page(make: Make, project: Project) -> None:
    compute = make()
    await asyncio.gather(*(compute.create(request(number)) for number in range(120)))
    before = project.calls["GET /servers"]
    assert len(await make().machines()) == 120
    assert project.calls["GET /servers"] == before + 3


async def test_the_more_servers_the_less_often_they_are_listed(
    make: Make, project: Project, clock: VirtualClock
) -> None:
    compute = make()
    await asyncio.gather(*(compute.create(request(number)) for number in range(60)))
    await compute.machines()
    before = project.calls["GET /servers"]
    clock.advance(5)  # a list of two pages is good for six seconds
    await compute.machines()
    assert project.calls["GET /servers"] == before
    clock.advance(2)
    await compute.machines()
    assert project.calls["GET /servers"] == before + 2


async def test_the_newest_snapshot_that_fits_is_taken(make: Make, project: Project) -> None:
    ours = {"aura-image": "1"}
    project.add_image(None, labels=ours, created="2026-01-01T00:00:00Z")
    right = project.add_image(None, labels=ours, created="2026-02-01T00:00:00Z")
    project.add_image(None, labels=ours, created="2026-03-01T00:00:00Z", disk_size=79)
    project.add_image(None, labels=ours, created="2026-04-01T00:00:00Z", architecture="arm")
    project.add_image(None, labels=ours, created="2026-05-01T00:00:00Z", status="creating")
    project.add_image(None, labels={}, created="2026-06-01T00:00:00Z")
    await make(types=("cpx12",)).create(request())
    (server,) = project.servers.values()
    assert server["image"]["id"] == right


async def test_without_a_snapshot_it_is_debian(compute: HetznerCompute, project: Project) -> None:
    await compute.create(request())
    (server,) = project.servers.values()
    assert server["image"]["name"] == "debian-12"


@pytest.mark.parametrize("name", ["", "Aura", "aura_1", "a" * 64, "aura-1\n", "-aura"])
async def test_a_name_that_no_server_can_have_is_refused(
    compute: HetznerCompute, project: Project, name: str
) -> None:
    with pytest.raises(ComputeError, match="cannot be the name"):
        await compute.create(request(name=name))
    assert not project.calls


async def test_labels_that_hetzner_does_not_take_are_refused(
    compute: HetznerCompute, project: Project
) -> None:
    with pytest.raises(ComputeError, match="cannot be a label"):
        await compute.create(request(labels={"aura-instance": "a,managed-by=b"}))
    assert not project.calls
