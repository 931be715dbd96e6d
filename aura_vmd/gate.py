"""What stands before a server: who may connect, how many, and for how long.

aiohttp bounds headers and bodies but waits for ever for a head that comes byte by byte, and takes
any number of connections. Both sockets of the daemon can be reached by the agent's processes, so
each gets a gate: one request for each connection, a time by which its head must be whole, a time
by which all is over, and a number of connections beyond which the next one is closed at once.
A gate that is kept busy harms the one who does it: deliveries come by pulls too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

__all__ = ["Gate", "Limits", "head_complete"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one listening socket; times in seconds from the connection's beginning."""

    connections: int
    head_seconds: float = 10.0
    total_seconds: float = 300.0


class Gate:
    """A protocol factory around a server's: ``loop.create_server(Gate(server, limits=...))``."""

    def __init__(
        self,
        server: web.Server,
        *,
        limits: Limits,
        admits: Callable[[asyncio.BaseTransport], bool] = lambda _: True,
    ) -> None:
        self._server = server
        self._limits = limits
        self._admits = admits
        self._open: set[asyncio.BaseTransport] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Guarded(self)

    def enter(self, transport: asyncio.BaseTransport) -> asyncio.Protocol | None:
        """Count the connection in; ``None`` when it is not to be."""
        if len(self._open) >= self._limits.connections or not self._admits(transport):
            return None
        self._open.add(transport)
        return cast("asyncio.Protocol", self._server())

    def leave(self, transport: asyncio.BaseTransport | None) -> None:
        """Count it out."""
        if transport is not None:
            self._open.discard(transport)

    @property
    def limits(self) -> Limits:
        return self._limits


def head_complete(request: web.BaseRequest) -> None:
    """To be called first by a handler: from here only the connection's total time counts."""
    transport = request.transport
    guarded = None if transport is None else transport.get_protocol()
    if isinstance(guarded, _Guarded):
        guarded.begun()


class _Guarded(asyncio.Protocol):
    """One connection: hands everything on to the server's protocol, and ends it in time."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._inner = self._gate.enter(transport)
        if self._inner is None:
            self._end()
            return
        loop, limits = asyncio.get_running_loop(), self._gate.limits
        self._timers = [
            loop.call_later(limits.head_seconds, self._end),
            loop.call_later(limits.total_seconds, self._end),
        ]
        self._inner.connection_made(transport)

    def begun(self) -> None:
        self._timers[0].cancel()

    def _end(self) -> None:
        cast("asyncio.Transport", self._transport).abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self._transport)
        for timer in self._timers:
            timer.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> Any:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()
