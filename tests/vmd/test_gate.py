"""The gate in front of a server, with limits short enough to be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from aura_vmd.gate import Gate, Limits, head_complete


@asynccontextmanager
async def guarded(
    limits: Limits, *, admitted: bool = True, hold: asyncio.Event | None = None
) -> AsyncIterator[int]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        head_complete(request)
        await request.read()
        if hold is not None:
            await hold.wait()
        return web.Response(text="done")

    server = web.Server(handle)
    gate = Gate(server, limits=limits, admits=lambda _: admitted)
    opened = await asyncio.get_running_loop().create_server(gate, "127.0.0.1", 0)
    async with opened:
        yield opened.sockets[0].getsockname()[1]
        await server.shutdown(0.1)


async def read_all(port: int, *sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in sent:
            writer.write(piece)
            await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


ENOUGH = 1.5
"""Seconds in which a whole head arrives, also where other processes want the processor."""

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_a_request_in_time_is_answered() -> None:
    async with guarded(Limits(connections=1)) as port:
        assert (await read_all(port, GET)).endswith(b"done")


async def test_a_head_that_does_not_end_is_not_waited_for() -> None:
    async with guarded(Limits(connections=1, head_seconds=ENOUGH)) as port:
        assert await read_all(port, GET[:-2]) == b""
        # Its place is free again.
        assert (await read_all(port, GET)).endswith(b"done")


async def test_a_silent_connection_ends() -> None:
    async with guarded(Limits(connections=1, head_seconds=0.1)) as port:
        assert await read_all(port) == b""


async def test_a_handler_may_take_longer_than_a_head() -> None:
    hold = asyncio.Event()
    async with guarded(Limits(connections=1, head_seconds=ENOUGH), hold=hold) as port:
        asyncio.get_running_loop().call_later(ENOUGH * 1.5, hold.set)
        assert (await read_all(port, GET)).endswith(b"done")


async def test_a_body_that_does_not_end_is_over_with_the_connections_time() -> None:
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"
    async with guarded(Limits(connections=1, total_seconds=0.2)) as port:
        assert await read_all(port, post) == b""


async def test_more_connections_than_allowed_are_closed() -> None:
    async with guarded(Limits(connections=2)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert await read_all(port, GET) == b""
        for _, writer in held:
            writer.close()


async def test_who_is_not_admitted_gets_nothing() -> None:
    async with guarded(Limits(connections=2), admitted=False) as port:
        assert await read_all(port, GET) == b""
