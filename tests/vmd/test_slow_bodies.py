"""An agent that takes its time with a request's body, while what it may do changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aura_core.wire import Op
from tests.vmd.control_plane import now_ms
from tests.vmd.harness import Machine, Provider, ask, policy


@pytest.mark.parametrize(
    ("subject", "op", "status"), [("c-1", "delete", 404), ("policy", "put", 403)]
)
async def test_what_was_taken_away_is_not_used(
    connected: Machine, provider: Provider, subject: str, op: Op, status: int
) -> None:
    """The machine has acknowledged by then that it holds it no more."""
    await connected.deliver("policy", policy("email:send"))
    began, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"te"
        began.set()
        await go_on.wait()
        yield b"xt"

    call = asyncio.create_task(ask(connected, "/v1/mailer/mail/send", method="POST", data=body()))
    await began.wait()
    content = b"" if op == "delete" else policy("email:read")
    message = connected.control.seal(subject, content, revision=now_ms() + 1000, op=op)
    assert (await connected.push(subject, message))[0] == 200
    go_on.set()
    assert (await call)[0] == status
    assert provider.calls == []
