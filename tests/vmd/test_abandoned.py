"""An agent that hangs up: its call ends, its slot is free, and what it did is recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from aiohttp import web

from aura_vmd.appending import Appender
from aura_vmd.broker import BrokerLimits
from tests.vmd.control_plane import Control
from tests.vmd.harness import Provider, ask, binding, credential, enrolled, policy

CALLS = 2


class Holding:
    """A provider that begins to answer, or does not, and then waits for whoever called to go."""

    def __init__(self, *, begins: bool) -> None:
        self._begins = begins
        self.reached: asyncio.Queue[None] = asyncio.Queue()
        self.left: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if self._begins:
            await response.prepare(request)
            await response.write(b"x" * 2**21)  # more than is kept back to be looked through
        self.reached.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            self.left.put_nowait(None)
        return response


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_call_ends_and_the_slot_is_free(
    root: Path, control: Control, provider: Provider, method: str, begins: bool
) -> None:
    holding = Holding(begins=begins)
    provider.answer = holding
    async with enrolled(root, control, limits=BrokerLimits(calls=CALLS)) as machine:
        await machine.deliver("c-1", credential(binding(provider.url)))
        await machine.deliver("policy", policy("email:read", "email:send"))
        path = "/v1/mailer/mail/send" if method == "POST" else "/v1/mailer/mail/1"
        hung_up = [asyncio.create_task(ask(machine, path, method=method)) for _ in range(CALLS)]
        for _ in hung_up:
            await holding.reached.get()
        for call in hung_up:
            call.cancel()
        await asyncio.gather(*hung_up, return_exceptions=True)
        async with asyncio.timeout(20):
            for _ in hung_up:
                await holding.left.get()
            provider.answer = None
            assert (await ask(machine, "/v1/mailer/mail/2"))[0] == 200
    # The daemon has ended: what was to be written is.
    lines = [line for line in machine.actions() if line["path"] != "/mail/2"]
    asked = [line["id"] for line in lines if line["outcome"] == "asked"]
    over = [line["id"] for line in lines if line["outcome"] == "abandoned"]
    assert len(over) == CALLS
    assert sorted(asked) == (sorted(over) if method == "POST" else [])


async def test_lines_are_written_when_nobody_waits_for_them() -> None:
    """At its end the daemon waits for those whose callers went away."""
    under_way, go_on = threading.Event(), threading.Event()
    written: list[bytes] = []

    def job(lines: Sequence[bytes]) -> Callable[[], None]:
        def write() -> None:
            under_way.set()
            go_on.wait()
            written.extend(lines)

        return write

    appender = Appender(job)
    first = asyncio.create_task(appender.append(b"1"))
    await asyncio.to_thread(under_way.wait)
    second = asyncio.create_task(appender.append(b"2"))
    await asyncio.sleep(0)
    for caller in (first, second):
        caller.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    go_on.set()
    await appender.settle()
    assert written == [b"1", b"2"]
