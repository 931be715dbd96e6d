"""One renewed credential to a thousand machines, from the refresh's commit to the last receipt.

Aura's side stores the new token, wants it on every machine, seals and signs a message for each,
posts it to real daemons (:mod:`benchmarks.fleet`), verifies their acknowledgements and commits them
with their audit entries: the real database (SQLite, every commit on the disk) and deliverer. How
long a machine is behind its user's refresh is told by itself, for one machine and for all: from the
commit of the new token to the last receipt, beside a POST of the same bytes to the same daemons.

The limits are httpx posting messages of the same size, as many at a time: to the same daemons,
which is what any delivery to them takes whatever is remembered of it; and to bare handlers that
read and answer. Sealing for the limit is done beforehand and not measured. One process is all the
machines, and shares two processors with the sender.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from aura_control.services.deliverer import Pace
from benchmarks.measuring import Effort, Figure, by_turns_async, figure
from benchmarks.outbox import GATEWAY_TOKEN, Outbox, joined
from benchmarks.processes import bare_process

__all__ = ["measure"]

_MACHINES_A_CALL = 10
_LONGEST = 5
"""Rounds: each posts some thousands of messages."""


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for all machines together; thousand of them in a thorough run."""
    return asyncio.run(_measure(effort))


async def _measure(effort: Effort) -> Sequence[Figure]:
    async with _fleet(1) as fleet:
        alone = await by_turns_async(
            effort.rounds, fleet.outbox.received_everywhere, fleet.posted_to_daemons
        )
    count, rounds = _MACHINES_A_CALL * effort.calls, min(effort.rounds, _LONGEST)
    async with _fleet(count) as fleet:
        aura, behind, daemons, handlers = await by_turns_async(
            rounds,
            fleet.outbox.renewed_everywhere,
            fleet.outbox.received_everywhere,
            fleet.posted_to_daemons,
            fleet.posted_to_handlers,
        )
    same = "POST the same bytes to them"
    return [
        figure(
            "1 machine, commit to receipt",
            limit="POST the same bytes to it",
            unit="ms",
            aura=alone[0],
            bare=alone[1],
        ),
        figure(
            f"{count} machines, commit to receipt", limit=same, unit="ms", aura=behind, bare=daemons
        ),
        figure(f"{count} machines, same daemons", limit=same, unit="ms", aura=aura, bare=daemons),
        figure(
            f"{count} machines, bare handlers",
            limit="POST the same bytes",
            unit="ms",
            aura=aura,
            bare=handlers,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    """A control plane that delivers, its machines, and who posts to them without it."""

    outbox: Outbox
    http: httpx.AsyncClient
    handlers: str

    async def posted_to_daemons(self) -> float:
        return await _posted(self.http, self.outbox, bare=None)

    async def posted_to_handlers(self) -> float:
        return await _posted(self.http, self.outbox, bare=self.handlers)


@asynccontextmanager
async def _fleet(count: int) -> AsyncIterator[_Fleet]:
    # A short path: a unix socket's has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="aura-"))
    try:
        async with AsyncExitStack() as stack:
            outbox = await stack.enter_async_context(
                Outbox.opened(f"sqlite:///{directory / 'aura.db'}", count)
            )
            await stack.enter_async_context(joined(directory, outbox))
            bare = await stack.enter_async_context(bare_process(directory))
            http = await stack.enter_async_context(_client())
            await stack.enter_async_context(outbox.delivering())
            yield _Fleet(outbox=outbox, http=http, handlers=f"http://{bare.status}/take")
    finally:
        shutil.rmtree(directory)


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=30.0, trust_env=False) as http:
        yield http


async def _posted(http: httpx.AsyncClient, outbox: Outbox, *, bare: str | None) -> float:
    """Milliseconds until every message is posted and answered."""
    parcels = await outbox.sealed_apart()
    slots = asyncio.Semaphore(Pace().lanes)
    headers = {"Authorization": f"Bearer {GATEWAY_TOKEN}", "Content-Type": "application/json"}

    async def post(url: str, message: bytes) -> None:
        async with slots:
            answer = await http.post(bare or url, content=message, headers=headers)
            answer.raise_for_status()

    began = time.perf_counter_ns()
    async with asyncio.TaskGroup() as tasks:
        for url, message in parcels:
            tasks.create_task(post(url, message))
    return (time.perf_counter_ns() - began) / 1e6
