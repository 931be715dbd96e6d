"""A call that the agent has the broker make, against the same call made directly.

Both reach the same provider on loopback, for 2 KB of JSON. Two limits. A direct call over a
connection that is kept open is what no broker can reach: there is a process more in between. A
bare relay in a process of its own, from a unix socket to the provider by aiohttp, is what any
broker takes that keeps the credential out of the agent's process; what is above it is Aura's
own: judging, placing, searching the answer, recording. To broker and relay each call comes by a
connection of its own, since each comes from a new process of a skill's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from aura_core.permissions import AgentPermissions
from benchmarks.machine import CONNECTION, GATEWAY_TOKEN, Machine, credential, machine
from benchmarks.measuring import Effort, Figure, by_turns_async, figure
from benchmarks.processes import bare_process

__all__ = ["measure"]

_MANY = 16


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for each call, one after another and sixteen at a time."""
    return asyncio.run(_measure(effort))


async def _measure(effort: Effort) -> Sequence[Figure]:
    figures = []
    async with machine() as subject:
        relay = subject.directory / "relay.sock"
        async with (
            bare_process(subject.directory, relay=relay) as provider,
            subject.started(),
            _session(None) as direct,
            _session(subject.broker_socket) as brokered,
            _session(relay) as relayed,
        ):
            await subject.asked.wait()
            origin = f"http://{provider.status}"
            await _deliver(subject, origin)
            for callers in (1, _MANY):
                aura, straight, between = await by_turns_async(
                    effort.rounds,
                    _calls(brokered, "http://broker/v1/bare/items", effort.calls, callers),
                    _calls(direct, f"{origin}/items", effort.calls, callers),
                    _calls(relayed, "http://relay/items", effort.calls, callers),
                )
                at_once = "one caller" if callers == 1 else f"{callers} callers"
                figures += [
                    figure(f"{at_once}, direct", limit="a direct call over a kept connection",
                           unit="ms", aura=aura, bare=straight),
                    figure(f"{at_once}, relay", limit="a bare relay on a unix socket",
                           unit="ms", aura=aura, bare=between),
                ]  # fmt: skip
    return figures


def _session(path: Path | None) -> aiohttp.ClientSession:
    connector = (
        aiohttp.TCPConnector()
        if path is None
        else aiohttp.UnixConnector(str(path), force_close=True)
    )
    return aiohttp.ClientSession(connector=connector)


async def _deliver(subject: Machine, origin: str) -> None:
    """Have the daemon hold a credential for the provider, and the permission to use it."""
    contents = {
        CONNECTION: credential(origin),
        "policy": AgentPermissions(scopes=frozenset({"api:outbound"})),
    }
    async with aiohttp.ClientSession() as session:
        for name, content in contents.items():
            async with session.post(
                f"{subject.origin}/internal/credentials/{name}",
                data=subject.seal(name, content),
                headers={"Authorization": f"Bearer {GATEWAY_TOKEN}"},
            ) as answer:
                answer.raise_for_status()


def _calls(
    session: aiohttp.ClientSession, url: str, calls: int, callers: int
) -> Callable[[], Awaitable[float]]:
    """A side of ``calls`` calls for each of ``callers`` at once; milliseconds of time for each."""

    async def caller() -> None:
        for _ in range(calls):
            async with session.get(url) as answer:
                answer.raise_for_status()
                await answer.read()

    async def sample() -> float:
        began = time.perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        return (time.perf_counter_ns() - began) / (calls * callers) / 1e6

    return sample
