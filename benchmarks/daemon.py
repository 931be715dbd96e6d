"""The daemon's start and its memory, against a bare aiohttp application.

The start is from before the process is made until it has answered ``GET /health``, of a machine
that has joined and holds a credential: what follows each reboot. Both sides say when they are
ready, so nothing is measured of asking. The bare application is aiohttp with one route, by the
same interpreter: what no daemon on aiohttp can be below.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import aiohttp

from benchmarks.machine import CONNECTION, GATEWAY_TOKEN, Machine, credential, machine
from benchmarks.measuring import Effort, Figure, by_turns_async, figure
from benchmarks.processes import Memory, bare_process, memory

__all__ = ["measure"]


def measure(effort: Effort) -> Sequence[Figure]:
    """The start in milliseconds, the memory in MiB."""
    return asyncio.run(_measure(effort))


async def _measure(effort: Effort) -> Sequence[Figure]:
    sizes: tuple[list[Memory], list[Memory]] = ([], [])
    async with machine() as subject, _session() as session:
        await _prepare(subject, session)

        async def aura() -> float:
            async with subject.started() as process:
                taken = await _healthy(session, subject.origin, process.began)
                await subject.asked.wait()
                sizes[0].append(memory(process.pid))
            return taken

        async def bare() -> float:
            async with bare_process(subject.directory) as process:
                taken = await _healthy(session, f"http://{process.status}", process.began)
                sizes[1].append(memory(process.pid))
            return taken

        ours, theirs = await by_turns_async(effort.rounds, aura, bare)
    limit = "aiohttp with one route"
    return [
        figure("start", limit=limit, unit="ms", aura=ours, bare=theirs),
        *_memory(limit, *sizes),
    ]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


async def _prepare(subject: Machine, session: aiohttp.ClientSession) -> None:
    """Have the machine join and hold a credential."""
    async with subject.started():
        await subject.asked.wait()
        async with session.post(
            f"{subject.origin}/internal/credentials/{CONNECTION}",
            data=subject.seal(CONNECTION, credential("https://api.example.org")),
            headers={"Authorization": f"Bearer {GATEWAY_TOKEN}"},
        ) as answer:
            answer.raise_for_status()


async def _healthy(session: aiohttp.ClientSession, origin: str, began: float) -> float:
    async with session.get(f"{origin}/health") as answer:
        answer.raise_for_status()
        await answer.read()
    return (time.perf_counter() - began) * 1000


def _memory(limit: str, aura: Sequence[Memory], bare: Sequence[Memory]) -> list[Figure]:
    figures = [
        figure(
            "memory, resident",
            limit=limit,
            unit="MiB",
            aura=[one.resident for one in aura],
            bare=[one.resident for one in bare],
        )
    ]
    ours = [one.proportional for one in aura if one.proportional is not None]
    theirs = [one.proportional for one in bare if one.proportional is not None]
    if len(ours) == len(theirs):
        figures.append(
            figure("memory, proportional", limit=limit, unit="MiB", aura=ours, bare=theirs)
        )
    return figures
