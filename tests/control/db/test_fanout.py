"""One credential on many machines: to all of them, once, and whatever some of them do."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, event

from aura_control.clients.vmd import VmdClient
from aura_control.services.deliverer import Pace
from aura_core.encoding import b64url
from benchmarks.outbox import GATEWAY_TOKEN, Outbox, joined
from tests.control.machines.vm import Clockwork, Network, Vm

PATIENT = Pace(patience=60.0, slow_patience=60.0, drain=0.1)
"""Nobody is given up while a test runs: what arrives did not wait for anybody's time-out."""


class Fleet(Network):
    """Machines, of which some are silent: they take a request and never answer it."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()
        self.waiting: list[str] = []
        self.asked, self.speak = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host in self.silent:
            self.waiting.append(request.url.host)
            self.asked.set()
            await self.speak.wait()
        return await super().handle_async_request(request)

    def received(self) -> list[int]:
        """How many messages each machine got."""
        return [len(vm.received) for vm in self.vms.values()]

    def hosts(self, number: int) -> set[str]:
        return {*list(self.vms)[:number]}


@asynccontextmanager
async def fleet(url: str, count: int, pace: Pace) -> AsyncIterator[tuple[Outbox, Fleet]]:
    network = Fleet()
    client = VmdClient(transport=network)
    async with Outbox.opened(url, count, machines=client, pace=pace) as outbox:
        signing = outbox.vault.signing
        async with httpx.AsyncClient() as http:
            for instance_id in outbox.instance_ids:
                network.vms[f"{instance_id}.test"] = Vm(
                    instance_id=instance_id,
                    join_token="-",
                    control_keys={signing.signer_kid: signing.sig_public},
                    http=http,
                    clock=Clockwork(1),
                    gateway_token=GATEWAY_TOKEN,
                )
            await outbox.enrol(
                {
                    vm.instance_id: {
                        "push_url": f"http://{host}",
                        "enc_public": b64url(vm.keys.enc_public),
                        "sig_public": b64url(vm.keys.sig_public),
                        "recipient_kid": vm.keys.recipient_kid,
                    }
                    for host, vm in network.vms.items()
                }
            )
            yield outbox, network


def _files(folder: Path) -> list[Path]:
    return [*folder.glob("*/messages/*.json")]


def revisions(network: Fleet) -> set[int]:
    return {held.revision for vm in network.vms.values() for held in vm.held.values()}


async def test_every_machine_gets_it_once(empty_url: str) -> None:
    async with fleet(empty_url, 30, PATIENT) as (outbox, network), outbox.delivering():
        await outbox.renewed_everywhere()
        assert network.received() == [1] * 30
        assert len(revisions(network)) == 1
        await outbox.renewed_everywhere()
        assert network.received() == [2] * 30


async def test_real_daemons_get_it_at_once_and_not_when_somebody_looks_again(
    empty_url: str,
) -> None:
    """Over real connections into another process, by the wake of whoever refreshed: nothing here
    looks again within the hour."""
    pace = replace(PATIENT, idle=3600.0)
    with tempfile.TemporaryDirectory(prefix="aura-") as folder:
        async with (
            Outbox.opened(empty_url, 10, pace=pace) as outbox,
            joined(Path(folder), outbox),
            outbox.delivering(),
        ):
            for _ in range(3):
                await outbox.renewed_everywhere()
        held = await asyncio.to_thread(_files, Path(folder))
    assert len(held) == 10


async def test_two_processes_share_the_work_and_double_none(empty_url: str) -> None:
    async with fleet(empty_url, 30, replace(PATIENT, lanes=4)) as (outbox, network):
        other = outbox.another_deliverer()
        running = asyncio.create_task(other.run())
        async with outbox.delivering():
            await outbox.renew()
            other.wake()
            await outbox.held_by_all_but(0)
        await other.close()
        await running
        assert network.received() == [1] * 30


async def test_machines_known_to_be_silent_delay_nobody(empty_url: str) -> None:
    pace = replace(PATIENT, lanes=4, slow_lanes=3, first_retry=0.01, longest_retry=3600.0)
    async with fleet(empty_url, 40, pace) as (outbox, network), outbox.delivering():
        network.silent = dead = network.hosts(20)
        for host in dead:
            network.vms[host].faults = ["unreachable"] * 9
        network.speak.set()  # at first they refuse at once, and so become known
        await outbox.renew()
        await outbox.held_by_all_but(20)
        network.speak.clear()
        network.waiting.clear()
        for _ in range(3):
            await outbox.renew()
            await outbox.held_by_all_but(20)
        # All that could wait for them wait, none was given up, and nobody else noticed.
        assert len(network.waiting) <= 3
        assert [n for n in network.received() if n] == [4] * 20


async def test_machines_that_fall_silent_cost_a_lane_for_as_long_as_patience(
    empty_url: str,
) -> None:
    pace = replace(PATIENT, lanes=4, slow_lanes=2, patience=0.05)
    async with fleet(empty_url, 40, pace) as (outbox, network), outbox.delivering():
        network.silent = network.hosts(20)
        await outbox.renew()
        await outbox.held_by_all_but(20)
        alive = [vm for host, vm in network.vms.items() if host not in network.silent]
        assert all(vm.held for vm in alive)


async def test_what_changes_while_a_message_is_under_way_is_one_message(empty_url: str) -> None:
    async with fleet(empty_url, 1, PATIENT) as (outbox, network), outbox.delivering():
        network.silent = network.hosts(1)
        await outbox.renew()
        async with asyncio.timeout(60):
            await network.asked.wait()
        for _ in range(4):
            await outbox.renew()
        network.speak.set()
        await outbox.held_by_all_but(0)
        assert network.received() == [2]


@pytest.fixture
def statements() -> Iterator[Callable[[], int]]:
    count = 0

    def seen(*_: object) -> None:
        nonlocal count
        count += 1

    def taken() -> int:
        nonlocal count
        count, before = 0, count
        return before

    event.listen(Engine, "before_cursor_execute", seen)
    yield taken
    event.remove(Engine, "before_cursor_execute", seen)


async def test_wanting_it_on_many_takes_no_more_statements_than_on_few(
    tmp_path: Path, statements: Callable[[], int]
) -> None:
    taken = []
    for count in (3, 30):
        url = f"sqlite:///{tmp_path / str(count)}.db"
        async with fleet(url, count, PATIENT) as (outbox, _):
            await outbox.renew()
            statements()
            await outbox.renew()
            taken.append(statements())
    assert taken[0] == taken[1]
