"""A provider whose refresh tokens work once: a real HTTP server, in the test's own process.

The second use of a token ends the whole family of tokens (RFC 9700 §4.14.2), unless the provider
bears it. It can hold a request before it acts on it, or its answer after it has acted; and it can
act, and then end the connection or answer garbage.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

__all__ = ["Family", "FamilyProvider", "family_provider"]

Hold = Literal["before", "after"]
Breaks = Literal["connection", "answer"]
"""Instead of the answer, the connection ends; or what is answered is no document."""


@dataclass
class Family:
    """The tokens of one connection: those that live, and what was asked with them."""

    name: str
    bears_reuse: bool
    hold: Hold | None = None
    breaks: Breaks | None = None
    """What breaks once, after the provider has acted."""
    calls: list[int] = field(default_factory=list)
    """The process of each refresh that came in."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """A request is held."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets go of those that are held."""
    alive: set[str] = field(default_factory=set)
    _used: set[str] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def issue(self) -> dict[str, object]:
        """A new pair of tokens, good for an hour."""
        number = next(self._numbers)
        pair = {
            kind: f"{kind}-{self.name}-{number}-{'x' * 24}"
            for kind in ("access_token", "refresh_token")
        }
        self.alive |= set(pair.values())
        return {**pair, "token_type": "Bearer", "expires_in": 3600}

    def renew(self, token: str) -> dict[str, object] | None:
        """What a refresh answers; None: the token is not accepted, and perhaps none is any more."""
        if token in self._used and not self.bears_reuse:
            self.alive.clear()
        if token not in self.alive and not (self.bears_reuse and token in self._used):
            return None
        self._used.add(token)
        self.alive.discard(token)
        return self.issue()


@dataclass
class FamilyProvider:
    """The running server."""

    origin: str = ""
    families: dict[str, Family] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before each answer."""

    def family(self, name: str, *, bears_reuse: bool = False, hold: Hold | None = None) -> Family:
        """Adds the family of one connection."""
        found = self.families[name] = Family(name=name, bears_reuse=bears_reuse, hold=hold)
        return found

    async def answer(self, request: web.Request) -> web.Response:
        family = self.families[request.match_info["name"]]
        token = str((await request.post())["refresh_token"])
        family.calls.append(int(request.headers.get("X-Process", "0")))
        if family.hold == "before":
            await self._held(family)
        told = family.renew(token)
        if family.hold == "after":
            await self._held(family)
        await asyncio.sleep(self.delay)
        broken, family.breaks = family.breaks, None
        if broken == "connection":
            assert request.transport is not None
            request.transport.abort()
        if broken == "answer":
            return web.Response(body=b"\x00\xff{<html>", content_type="text/html")
        if told is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response(told)

    async def _held(self, family: Family) -> None:
        family.reached.set()
        await family.opened.wait()


@asynccontextmanager
async def family_provider() -> AsyncIterator[FamilyProvider]:
    """The provider for the block, on a free port."""
    provider = FamilyProvider()
    app = web.Application()
    app.router.add_post("/{name}/token", provider.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield provider
    finally:
        for family in provider.families.values():
            family.opened.set()
        await runner.cleanup()
