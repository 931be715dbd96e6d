"""Two hundred at once: few requests, none beyond the rate limit, and no server too many."""

from __future__ import annotations

import asyncio

import pytest

from aura_plugins.hetzner.tests.projects import Make, request
from tests.fakes.hetzner.project import Fault, Project

MANY = 200
SHARED = ("GET /servers", "GET /actions")


def beyond_polling(project: Project) -> int:
    return sum(count for call, count in project.calls.items() if call not in SHARED)


async def test_two_hundred_machines(make: Make, project: Project) -> None:
    compute = make()
    machines = await asyncio.gather(*(compute.create(request(n)) for n in range(MANY)))
    assert {machine.state for machine in machines} == {"running"}
    assert len(project.servers) == MANY
    # One request each, and what is asked once for all: types, prices, images and the firewall.
    assert beyond_polling(project) <= MANY + 6
    assert project.refused == 0
    # Lists of up to four pages, and the more pages the fewer lists.
    assert project.calls["GET /servers"] <= 13


async def test_two_hundred_machines_when_much_goes_wrong(make: Make, project: Project) -> None:
    project.sold_out = {("cx23", "nbg1"), ("cx23", "fsn1")}
    project.faults = [
        Fault(method="POST", path="/servers", times=3, done=True),
        Fault(method="POST", path="/servers", times=3, status=423, code="locked"),
    ]
    compute = make(timeout=(5.0, 3.0), spread=True)
    await asyncio.gather(*(compute.create(request(n)) for n in range(MANY)))
    assert len(project.servers) == project.most_servers_seen == MANY
    assert {server["type"]["name"] for server in project.servers.values()} == {"cax11"}
    assert beyond_polling(project) <= 3 * MANY
    assert project.refused == 0


@pytest.mark.parametrize("left", [0, 40])
async def test_the_rate_limit_is_kept_when_little_is_left(
    make: Make, project: Project, left: int
) -> None:
    project.spend(project.hourly - left)
    begun = project.clock()
    compute = make()
    await asyncio.gather(*(compute.create(request(n)) for n in range(60)))
    assert len(project.servers) == 60
    # The first request of all finds out; it cannot know.
    assert project.refused <= (1 if left == 0 else 0)
    # It took as long as the requests beyond what was left take to come back, not much longer.
    waited = project.clock() - begun
    assert sum(project.calls.values()) - left - 1 <= waited <= 240
