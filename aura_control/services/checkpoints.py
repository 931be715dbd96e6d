"""Signed checkpoints of the tenants' audit logs, brought to the place of the operator's choice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aura_control.db.engine import Database
from aura_control.logs import get_logger
from aura_control.ports import Clock
from aura_core.checkpoints import Checkpoint, CheckpointStore
from aura_core.errors import AuraError, Conflict, WireError
from aura_core.wire import ControlKeys

__all__ = ["CheckpointPlace", "Checkpointer", "Witness", "read"]

_log = get_logger(__name__)

_AT_ONCE = 8
_PAGE = 64
_LONGEST_BACKOFF = 300.0
_HELD_BACK = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Witness:
    """What a place attests of one tenant.

    All of its checkpoints, about half a kilobyte each: one for a hundred entries of a busy log.
    """

    attested: Mapping[int, Checkpoint] = field(default_factory=dict)
    """Checkpoints whose signature verifies, by ``seq``."""
    raw: Mapping[int, bytes] = field(default_factory=dict)
    """The same as they lie there, where they were asked for."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names of the others, and why."""


@dataclass(frozen=True, kw_only=True)
class CheckpointPlace:
    """A place and the store that reaches it. The store is synchronous: it is called in threads."""

    store: CheckpointStore
    place: str

    async def put(self, name: str, content: bytes) -> None:
        """See ``CheckpointStore.put``."""
        await asyncio.to_thread(self.store.put, self.place, name, content)

    async def get(self, name: str) -> bytes | None:
        """See ``CheckpointStore.get``."""
        return await asyncio.to_thread(self.store.get, self.place, name)

    async def witness(
        self, tenant_id: str, signers: Mapping[str, bytes], *, raw: bool = False
    ) -> Witness:
        """All that lies there of a tenant. ``signers`` are public keys by key id."""
        found = await asyncio.to_thread(lambda: [*self.store.names(self.place, f"{tenant_id}/")])
        attested: dict[int, Checkpoint] = {}
        refused: dict[str, str] = {}
        kept: dict[int, bytes] = {}
        for start in range(0, len(found), _AT_ONCE):
            names = found[start : start + _AT_ONCE]
            contents = await asyncio.gather(*map(self.get, names))
            for name, content in zip(names, contents, strict=True):
                try:
                    checkpoint = read(name, content, signers)
                except WireError as error:
                    refused[name] = error.message
                else:
                    attested[checkpoint.seq] = checkpoint
                    if raw:
                        kept[checkpoint.seq] = content or b""
        return Witness(attested=attested, raw=kept, refused=refused)


def read(name: str, raw: bytes | None, signers: Mapping[str, bytes]) -> Checkpoint:
    """The checkpoint that lies under ``name``. Raises WireError: another name is no excuse, since
    a checkpoint that was copied to it would stand in for one that is missing."""
    if raw is None:
        raise WireError("It is not there any more.")
    checkpoint = Checkpoint.verify(raw, signers)
    if checkpoint.name != name:
        raise WireError("It lies under another one's name.")
    return checkpoint


class Checkpointer:
    """One per process; ``run`` until ``close``. Several processes do the same work twice at worst:
    what is to be kept is recorded first, and the same for all."""

    def __init__(
        self,
        *,
        database: Database,
        place: CheckpointPlace,
        signing: ControlKeys,
        clock: Clock,
        every: float = 5.0,
    ) -> None:
        """``every``: seconds between two looks for what is due."""
        self._database = database
        self._place = place
        self._signing = signing
        self._clock = clock
        self._every = every
        self._ended = asyncio.Event()
        self._held_back: dict[str, datetime] = {}

    async def run(self) -> None:
        """Makes what is due until ``close``; a failure is logged and tried again, later each time
        up to five minutes."""
        failures = 0
        while not self._ended.is_set():
            try:
                while await self.deliver() and not self._ended.is_set():
                    failures = 0
            except Exception as error:  # noqa: BLE001 - the next try may succeed
                failures += 1
                _log.warning("checkpoints_not_kept", reason=_reason(error), failures=failures)
            else:
                failures = 0
            wait = min(self._every * 2**failures, _LONGEST_BACKOFF) if failures else self._every
            try:
                async with asyncio.timeout(wait):
                    await self._ended.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Begins nothing new; ``run`` returns after what is under way."""
        self._ended.set()

    async def deliver(self) -> bool:
        """Makes one page of what is due; whether there was any.

        Raises the store's error when nothing could be kept.
        """
        now = self._clock()
        self._held_back = {t: until for t, until in self._held_back.items() if until > now}
        async with self._database.reading() as tx:
            due = await tx.checkpoints.due(limit=_PAGE, beyond=[*self._held_back])
        if not due:
            return False
        async with self._database.transaction() as tx:
            claimed = await tx.checkpoints.claim(due)
        wanted = []
        for tenant_id, checkpoint in claimed.items():
            if checkpoint is None:
                self._hold_back(tenant_id, "its last entry is missing")
            else:
                wanted.append(checkpoint)
        kept, failure = await self._keep_all(wanted)
        if kept:
            async with self._database.transaction() as tx:
                await tx.checkpoints.delivered(kept)
        if failure is not None:
            raise failure
        return bool(claimed)

    async def _keep_all(
        self, wanted: Sequence[Checkpoint]
    ) -> tuple[list[Checkpoint], Exception | None]:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(checkpoint: Checkpoint) -> bool:
            async with slots:
                return await self._keep(checkpoint)

        results = await asyncio.gather(*map(one, wanted), return_exceptions=True)
        kept: list[Checkpoint] = []
        failure: Exception | None = None
        for checkpoint, result in zip(wanted, results, strict=True):
            if isinstance(result, Exception):
                failure = result
            elif isinstance(result, BaseException):
                raise result
            elif result:
                kept.append(checkpoint)
        return kept, failure

    async def _keep(self, checkpoint: Checkpoint) -> bool:
        """Whether it lies at the place now. False: something else does."""
        try:
            await self._place.put(checkpoint.name, checkpoint.sign(self._signing))
        except Conflict:
            # The signing key may have been exchanged between two tries: the statement counts, not
            # its signature. What says something else was not written by this history.
            if await self._says_the_same(checkpoint):
                return True
            self._hold_back(checkpoint.tenant_id, "another one lies under its name")
            return False
        return True

    async def _says_the_same(self, checkpoint: Checkpoint) -> bool:
        raw = await self._place.get(checkpoint.name)
        return raw is not None and checkpoint.stated_by(raw)

    def _hold_back(self, tenant_id: str, reason: str) -> None:
        self._held_back[tenant_id] = self._clock() + _HELD_BACK
        _log.error("checkpoint_refused", tenant_id=tenant_id, reason=reason)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, AuraError) else type(error).__name__
