"""The daemon's two listening sockets, and how they are opened and closed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web

from aura_core.errors import ConfigurationError
from aura_vmd.files import write_durably
from aura_vmd.gate import Gate, Limits
from aura_vmd.privileges import Account, peer_check, share_socket
from aura_vmd.settings import Layout, Listen

__all__ = ["broker_listener", "http_listener"]

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_GRACE_SECONDS = 10.0
_HTTP_LIMITS = Limits(connections=64, total_seconds=60.0)
_BROKER_LIMITS = Limits(connections=64)
_LONGEST_SOCKET_PATH = 107  # sun_path (unix(7)), without its final NUL


@asynccontextmanager
async def http_listener(
    app: web.Application, *, listen: Listen, layout: Layout
) -> AsyncIterator[None]:
    """Listen on loopback; the address in use is written to the listen file, port 0 or not."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_silent_logger(),
        auto_decompress=False,
        shutdown_timeout=_GRACE_SECONDS,
    )
    await runner.setup()
    try:
        server = cast("web.Server", runner.server)
        gate = Gate(server, limits=_HTTP_LIMITS)
        opened = await _open(gate, listen)
        host, port = opened.sockets[0].getsockname()[:2]
        document = json.dumps({"host": host, "port": port}).encode()
        await asyncio.to_thread(write_durably, layout.listen_file, document, mode=0o644)
        try:
            yield
        finally:
            await _close(opened, server)
            layout.listen_file.unlink(missing_ok=True)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def broker_listener(
    handler: Handler, *, layout: Layout, agent: Account
) -> AsyncIterator[None]:
    """Listen on the broker's socket, which belongs to the agent's group."""
    path = layout.broker_socket
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            f"The broker's socket has a path of more than {_LONGEST_SOCKET_PATH} bytes: {path}.",
            hint="Use a root directory with a shorter name.",
        )
    _remove_socket(path)
    server = web.Server(
        handler,
        access_log=None,
        logger=_silent_logger(),
        auto_decompress=False,
        # An agent that hangs up frees the broker's slot: else a slow provider keeps it for as long
        # as it likes, and a few calls that nobody waits for keep all others out.
        handler_cancellation=True,
    )
    gate = Gate(server, limits=_BROKER_LIMITS, admits=peer_check(agent))
    opened = await asyncio.get_running_loop().create_unix_server(gate, str(path), backlog=64)
    try:
        share_socket(path, agent=agent)
        yield
    finally:
        await _close(opened, server)
        _remove_socket(path)


async def _open(gate: Gate, listen: Listen) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(gate, listen.host, listen.port, backlog=64)
    except OSError as error:
        raise ConfigurationError(
            f"{listen.host}:{listen.port} cannot be listened on: {os.strerror(error.errno or 0)}."
        ) from None


async def _close(opened: asyncio.Server, server: web.Server) -> None:
    """Take no more connections, and let those that are there finish."""
    opened.close()
    server.pre_shutdown()
    await server.shutdown(_GRACE_SECONDS)


def _silent_logger() -> logging.Logger:
    """For aiohttp's own messages: they quote what a peer sent, which may be the bearer token."""
    logger = logging.getLogger("aura_vmd.silent")
    logger.disabled = True
    return logger


def _remove_socket(path: Path) -> None:
    """A socket that a killed daemon left; anything else in its place is not ours to remove."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        return
