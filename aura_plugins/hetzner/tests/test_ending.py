"""Nothing is left of a destroyed machine that could be billed."""

from __future__ import annotations

import pytest
from aura_plugin_hetzner.compute import HetznerCompute

from aura_core.errors import ComputeError
from aura_plugins.hetzner.tests.projects import Make, request
from tests.fakes.hetzner.project import Fault, Project

EMPTY = {"servers": 0, "addresses": 0, "firewalls": 0, "groups": 0, "images": 2}
NAME = request().name
SNAPSHOT = {"managed-by": "aura", "aura-machine": NAME}


async def test_the_books_are_empty_afterwards(make: Make, project: Project) -> None:
    compute = make(spread=True)
    await compute.create(request())
    project.add_image(None, labels=SNAPSHOT)
    await compute.destroy(NAME)
    assert project.books == EMPTY
    assert await compute.find(NAME) is None
    await compute.destroy(NAME)  # nothing is left: that is success


async def test_addresses_that_outlive_the_server_are_found(make: Make, project: Project) -> None:
    project.addresses_stay = True
    compute = make()
    await compute.create(request())
    await compute.destroy(NAME)
    assert project.books == EMPTY


async def test_after_a_crash_addresses_are_found_without_the_server(
    make: Make, project: Project
) -> None:
    project.addresses_stay = True
    await make().create(request())
    lost = Fault(method="GET", path="/primary_ips", status=401, code="unauthorized")
    project.faults.append(lost)
    with pytest.raises(ComputeError):
        await make().destroy(NAME)
    assert (len(project.servers), len(project.addresses)) == (0, 2)
    await make().destroy(NAME)
    assert project.books == EMPTY


async def test_an_address_that_somebody_gave_to_the_server_is_theirs(
    compute: HetznerCompute, project: Project
) -> None:
    await compute.create(request())
    (server,) = project.servers.values()
    given = project.addresses[server["addresses"]["ipv4"]]
    given["auto_delete"] = False
    await compute.destroy(NAME)
    assert list(project.addresses.values()) == [given]
    assert given["labels"] == {}


async def test_another_machines_things_stay(make: Make, project: Project) -> None:
    compute = make(spread=True)
    await compute.create(request())
    other = await compute.create(request(2))
    project.add_image(None, labels={**SNAPSHOT, "aura-machine": other.name})
    project.add_image(None, labels={"aura-machine": NAME})
    await compute.destroy(NAME)
    assert project.books == {
        "servers": 1, "addresses": 2, "firewalls": 1, "groups": 1, "images": 4,
    }  # fmt: skip
    assert await compute.machines() == [other]


async def test_snapshots_are_kept_where_that_is_the_policy(make: Make, project: Project) -> None:
    compute = make(keep_snapshots=True)
    await compute.create(request())
    project.add_image(None, labels=SNAPSHOT)
    await compute.destroy(NAME)
    assert project.books == {**EMPTY, "images": 3}


async def test_a_locked_server_is_waited_for(compute: HetznerCompute, project: Project) -> None:
    await compute.create(request())
    (server,) = project.servers.values()
    server["locked_until"] = project.clock() + 5
    await compute.destroy(NAME)
    assert project.books == EMPTY
    assert 2 <= project.calls["DELETE /servers/{id}"] <= 4


async def test_a_server_that_stays_locked_is_left_to_the_next_attempt(
    compute: HetznerCompute, project: Project
) -> None:
    await compute.create(request())
    (server,) = project.servers.values()
    server["locked_until"] = project.clock() + 3600
    with pytest.raises(ComputeError, match="still at work") as caught:
        await compute.destroy(NAME)
    assert caught.value.retryable
    assert project.calls["DELETE /servers/{id}"] == 4
    server["locked_until"] = 0.0
    await compute.destroy(NAME)
    assert project.books == EMPTY


async def test_a_protected_server_stays_and_the_user_is_told(
    compute: HetznerCompute, project: Project
) -> None:
    await compute.create(request())
    (server,) = project.servers.values()
    server["protected"] = True
    with pytest.raises(ComputeError, match=r"protected from deletion.*Take the protection off"):
        await compute.destroy(NAME)
    assert len(project.servers) == 1
    assert project.calls["DELETE /servers/{id}"] == 1


async def test_a_delete_whose_answer_was_lost_is_repeated(make: Make, project: Project) -> None:
    compute = make(timeout=(5.0, 0.3))
    await compute.create(request())
    project.faults.append(Fault(method="DELETE", path="/servers/{id}", done=True))
    await compute.destroy(NAME)
    assert project.books == EMPTY
    assert project.calls["DELETE /servers/{id}"] == 2


async def test_after_the_last_machine_others_can_be_made(make: Make, project: Project) -> None:
    compute, other = make(), make()
    await compute.create(request())
    await other.create(request(2))
    # One process keeps in mind a firewall that the other has removed with the last machine.
    await other.destroy(request(2).name)
    await compute.destroy(NAME)
    await other.create(request(3))
    assert project.books == {**EMPTY, "servers": 1, "addresses": 2, "firewalls": 1}
