"""Level-triggered delivery: at boot and at each heartbeat the machine asks for what it lacks."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from aura_core.errors import AuraError, RevisionConflict, StaleRevision
from aura_vmd.conduct import Conduct
from aura_vmd.inbox import Inbox
from aura_vmd.problems import log_unexpected
from aura_vmd.skills import Skills
from aura_vmd.store import Store

__all__ = ["ControlPlane", "Sync"]

_log = logging.getLogger(__name__)

_SHORTEST = 1
_LONGEST = 3600
_WAKE_PAUSE = 5.0
_EAGER = 0.5
_ROUNDS = 64
_ACKS = 100  # some 35 KB of the 64 KiB that a request may have


class ControlPlane(Protocol):
    """What syncing needs of the control plane. Each method raises ``AuraError``."""

    async def heartbeat(
        self,
        *,
        revisions: Mapping[str, int],
        health: Mapping[str, Any],
        conduct: Mapping[str, Any],
    ) -> dict[str, Any]: ...

    async def pull(self, *, revisions: Mapping[str, int]) -> dict[str, Any]: ...

    async def ack(self, acks: Sequence[Mapping[str, Any]]) -> dict[str, Any]: ...


class Sync:
    """The loop that keeps the machine at what it should be. A control plane that is away changes
    nothing: what is held is used on, and the loop goes on asking."""

    def __init__(
        self,
        *,
        control: ControlPlane,
        inbox: Inbox,
        store: Store,
        skills: Skills,
        report: Callable[[], Awaitable[Mapping[str, Any]]],
        conduct: Conduct,
        heartbeat_seconds: int,
    ) -> None:
        self._control = control
        self._inbox = inbox
        self._store = store
        self._skills = skills
        self._report = report
        self._conduct = conduct
        self._seconds = _bounded(heartbeat_seconds)
        self._eager = _EAGER
        self._wanted = asyncio.Event()
        self._unacked: dict[str, dict[str, Any]] = {}

    def wake(self) -> None:
        """Ask soon instead of at the next heartbeat: something needed is missing or expired."""
        self._wanted.set()

    async def run(self) -> None:
        """Pull, then report for ever; to be cancelled."""
        await self._guarded(self._pull)
        while True:
            # Before the report, not after: who wakes while it is on its way knows better.
            self._wanted.clear()
            await self._guarded(self._beat)
            await self._pause()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except AuraError as error:
            _log.warning("the control plane was not reached, going on with what is held: %s", error)
        except Exception as error:  # noqa: BLE001 - nothing may end this loop
            log_unexpected(_log, error)

    async def _pause(self) -> None:
        seconds = min(self._seconds, self._eager) * random.uniform(0.9, 1.1)  # noqa: S311
        # Waking is the agent's to cause, by asking for what has expired: hence a pause at least.
        least = min(_WAKE_PAUSE, seconds)
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(seconds - least):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _beat(self) -> None:
        await self._skills.settle()
        health = await self._report()
        said = self._conduct.report()
        answer = await self._control.heartbeat(
            revisions=self._store.revisions(), health=health, conduct=said
        )
        self._hurry(ready=health["runtime"]["ready"])
        seconds = answer.get("heartbeat_seconds")
        if type(seconds) is int:
            self._seconds = _bounded(seconds)
        await self._hand_in()
        if answer.get("lacking") or self._store.damaged:
            await self._pull()
        # Last: a disk that takes no line of it must not keep anything from being delivered.
        await self._conduct.answered(said, answer)

    def _hurry(self, *, ready: bool) -> None:
        """While the runtime starts, somebody waits for the news: report sooner, then less often."""
        if ready:
            self._eager = math.inf
        else:
            self._eager = _EAGER if self._eager == math.inf else self._eager * 2

    async def _pull(self) -> None:
        """Pull until there is no more. Every round is acknowledged by itself, so that one message
        that cannot be used does not hold up the others."""
        seen: set[tuple[str, int]] = set()
        for _ in range(_ROUNDS):
            answer = await self._control.pull(revisions=self._store.revisions())
            messages = answer.get("messages")
            taken = set()
            for message in messages if isinstance(messages, list) else ():
                taken |= await self._take(message)
            await self._hand_in()
            if taken <= seen or answer.get("more") is not True:
                return
            seen |= taken

    async def _take(self, message: Any) -> set[tuple[str, int]]:
        raw = json.dumps(message, separators=(",", ":")).encode()
        try:
            accepted = await self._inbox.pulled(raw)
        except (StaleRevision, RevisionConflict):
            return set()  # a push was faster; or the inbox has raised the alarm
        except AuraError as error:
            _log.error("a pulled message is refused: %s", error)
            return set()
        self._unacked[accepted.subject] = accepted.ack
        return {(accepted.subject, accepted.revision)}

    async def _hand_in(self) -> None:
        """Hand in what was not acknowledged yet; what fails stays for the next time."""
        while self._unacked:
            acks = dict(islice(self._unacked.items(), _ACKS))
            await self._control.ack(list(acks.values()))
            self._unacked = {s: ack for s, ack in self._unacked.items() if acks.get(s) != ack}


def _bounded(seconds: int) -> int:
    return max(_SHORTEST, min(seconds, _LONGEST))
