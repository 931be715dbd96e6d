"""The limit of what listens: aiohttp alone, as a process (``python -m benchmarks.bare``).

It is three things at once: a bare application to start and to post to, the provider that both the
broker and a direct call reach, and, given ``--relay SOCKET``, a relay to itself that does what any
broker in a process of its own has to: take a call on a unix socket, make it, pass the answer on.
It says READY=1 to ``NOTIFY_SOCKET`` (sd_notify(3)) with its address as status, once it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket

import aiohttp
from aiohttp import web

__all__ = ["main"]

_ITEMS = {
    "items": [{"id": number, "name": f"item {number}", "done": False} for number in range(40)]
}
_TOKENS = {
    "access_token": "a" * 64,
    "refresh_token": "r" * 64,
    "token_type": "Bearer",
    "expires_in": 3600,
}
_ACK = {"taken": "0" * 300}
"""As long as the daemon's acknowledgement is."""


def main() -> None:
    """Serve on loopback until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("--relay", metavar="SOCKET")
    parser.add_argument("--journal", metavar="FILE", default=os.devnull)
    options = parser.parse_args()
    asyncio.run(_serve(options.relay, options.journal))


async def _serve(relay: str | None, journal: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    runner = web.AppRunner(_app(file), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    if relay is None:
        _ready(f"{host}:{port}")
        await stop.wait()
    else:
        await _relay(relay, f"http://{host}:{port}", stop)
    await runner.cleanup()
    os.close(file)


def _app(journal: int) -> web.Application:
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def items(_: web.Request) -> web.Response:
        return web.json_response(_ITEMS)

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(_ACK)

    async def keep(request: web.Request) -> web.Response:
        await asyncio.to_thread(_append, journal, await request.read())
        return web.json_response(_ACK)

    async def token(request: web.Request) -> web.Response:
        await request.post()
        return web.json_response(_TOKENS)

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/items", items)
    app.router.add_post("/token", token)
    app.router.add_post("/take", take)
    app.router.add_post("/keep", keep)
    return app


def _append(journal: int, message: bytes) -> None:
    """The least that survives a power failure: an append, and its data on the disk."""
    os.write(journal, message)
    os.fdatasync(journal)


async def _relay(path: str, origin: str, stop: asyncio.Event) -> None:
    async with aiohttp.ClientSession() as session:

        async def forward(request: web.BaseRequest) -> web.Response:
            async with session.request(
                request.method, origin + request.path, data=await request.read() or None
            ) as answer:
                body = await answer.read()
            return web.Response(status=answer.status, body=body, content_type=answer.content_type)

        runner = web.ServerRunner(web.Server(forward, access_log=None))
        await runner.setup()
        await web.UnixSite(runner, path).start()
        _ready(origin.removeprefix("http://"))
        await stop.wait()
        await runner.cleanup()


def _ready(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(f"READY=1\nSTATUS={address}".encode(), os.environ["NOTIFY_SOCKET"])


if __name__ == "__main__":
    main()
