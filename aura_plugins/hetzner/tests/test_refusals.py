"""What Hetzner refuses becomes what the user can do; nothing secret is in it."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace

import pytest
from aura_plugin_hetzner.compute import HetznerCompute
from aura_plugin_hetzner.settings import HetznerSettings
from pydantic import SecretStr

from aura_core.errors import ComputeError
from aura_plugins.hetzner.tests.projects import Make, request
from tests.fakes.hetzner.project import Fault, Project

WRONG = "a-token-that-nobody-gave"


async def test_a_wrong_token(
    make: Make, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    compute = make(token=SecretStr(WRONG))
    for attempt in (compute.create(request()), compute.machines(), compute.destroy("aura-1")):
        with pytest.raises(ComputeError, match=r"does not accept.*AURA_HETZNER_TOKEN") as caught:
            await attempt
        assert not caught.value.retryable
        told = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert WRONG not in told
        assert request().user_data not in told
    assert project.books["servers"] == 0


async def test_a_token_that_may_only_read(compute: HetznerCompute, project: Project) -> None:
    project.read_only = True
    with pytest.raises(ComputeError, match=r"may only read.*read and write") as caught:
        await compute.create(request())
    assert not caught.value.retryable


async def test_an_exhausted_quota(compute: HetznerCompute, project: Project) -> None:
    project.most_servers = 1
    await compute.create(request())
    with pytest.raises(ComputeError, match=r"limit \(server_limit\).*higher limit") as caught:
        await compute.create(request(2))
    assert not caught.value.retryable
    assert project.books["servers"] == 1


async def test_hetzner_cannot_be_reached(settings: HetznerSettings, make: Make) -> None:
    nobody = replace(settings, endpoint="http://127.0.0.1:9/v1")
    with pytest.raises(ComputeError, match="did not say") as caught:
        await make(endpoint=nobody.endpoint).machines()
    assert caught.value.retryable


async def test_an_answer_that_is_none_of_hetzners(make: Make, project: Project) -> None:
    project.faults.append(Fault(method="GET", path="/servers", status=418, code="<script>" * 50))
    with pytest.raises(ComputeError, match=r"\(unknown\)"):
        await make().machines()


async def test_repeating_has_a_budget(make: Make, project: Project) -> None:
    """Ten repeats are allowed at first, and then one in five requests."""
    project.faults.append(
        Fault(method="GET", path="/servers", status=503, code="unavailable", times=1000)
    )
    compute = make()
    for _ in range(20):
        with pytest.raises(ComputeError):
            await compute.machines()
    assert project.calls["GET /servers"] <= 20 + 10 + 20 / 5


async def test_keys_of_the_project_get_into_the_machine(make: Make, project: Project) -> None:
    for number, (name, labels) in enumerate(
        [("anna", {}), ("ben", {"team": "ops"}), ("carl", {"team": "web"})], 1
    ):
        project.keys[number] = {
            "id": number,
            "name": name,
            "fingerprint": "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f",
            "public_key": "ssh-ed25519 AAAA",
            "labels": labels,
            "created": project.stamp(),
        }
    await make(ssh_keys=("anna",), ssh_key_label="team=ops").create(request())
    (server,) = project.servers.values()
    assert server["ssh_keys"] == ["anna", "ben"]
    with pytest.raises(ComputeError, match="no SSH key dora"):
        await make(ssh_keys=("anna", "dora")).create(request(2))
    with pytest.raises(ComputeError, match="label team=none"):
        await make(ssh_key_label="team=none").create(request(2))
    assert len(project.servers) == 1


async def test_the_firewall_lets_in_what_is_needed(make: Make, project: Project) -> None:
    await make().create(request())
    (closed,) = project.firewalls.values()
    assert closed["labels"] == {"managed-by": "aura"}
    rules = {(rule["direction"], rule["protocol"], rule["port"]) for rule in closed["rules"]}
    assert rules == {("in", "tcp", "80"), ("in", "tcp", "443"), ("in", "icmp", None)}
    # Another process finds it; other rules are another firewall.
    await make().create(request(2))
    assert len(project.firewalls) == 1
    await make(ssh_from=("192.0.2.0/24",)).create(request(3))
    servers = [*project.servers.values()]
    assert servers[0]["firewalls"] == servers[1]["firewalls"] != servers[2]["firewalls"]
    (ssh,) = [
        rule
        for number in servers[2]["firewalls"]
        for rule in project.firewalls[number]["rules"]
        if rule["port"] == "22"
    ]
    assert ssh["source_ips"] == ["192.0.2.0/24"]


async def test_a_firewall_of_that_name_that_is_not_auras(make: Make, project: Project) -> None:
    await make().create(request())
    (firewall,) = project.firewalls.values()
    firewall["labels"] = {}
    with pytest.raises(ComputeError, match=r"firewall aura-machines-\w{8} that is not Aura's"):
        await make().create(request(2))


async def test_machines_are_spread_over_groups_of_ten(make: Make, project: Project) -> None:
    compute = make(spread=True)
    for number in range(23):
        await compute.create(request(number))
    sizes = [
        sum(server["group"] == number for server in project.servers.values())
        for number in project.groups
    ]
    assert sizes == [10, 10, 3]
