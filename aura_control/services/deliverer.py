"""The background task that brings to machines what the outbox wants them to hold.

It is only the fast path: a machine that is not reached, or a message that is lost, is mended when
the machine pulls. So nothing here may hold anything else up. Each machine has a lane of its own,
with one message under way; what changes meanwhile waits and is one message, the newest. Lanes are
in two pools: a machine that did not answer last time is tried again among its kind, with patience,
and the many others are given a second each. However many are dead, the living wait for none that
is known to be, and for the rest in hundreds at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from pydantic import SecretStr

from aura_control.db.engine import Database
from aura_control.db.models import Delivery, Instance
from aura_control.logs import get_logger
from aura_control.ports import Clock, MachineClient, Workflows
from aura_control.services.enrolment import open_gateway_tokens
from aura_control.services.grouping import GroupedWrites
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.outcomes import Outcome, OutcomeWriter
from aura_control.services.refusals import record
from aura_control.services.sealing import Sealer
from aura_core.errors import (
    AuraError,
    ProviderUnavailable,
    RevisionConflict,
    SignatureInvalid,
    StaleRevision,
)
from aura_core.wire import Ack, verify_ack

__all__ = ["OutboxDeliverer", "Pace"]

_log = get_logger(__name__)

_UNEXPECTED = "An unexpected error; the log says which."

_TOGETHER = 64
"""Messages sealed in one transaction: SQLite's other writers wait for it, some 30 ms."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How the deliverer paces itself. Times are in seconds."""

    lanes: int = 256
    """Machines that are talked to at the same time, of those that answered last time."""
    patience: float = 1.0
    """How long one of them may take to answer; then it is one that did not."""
    slow_lanes: int = 64
    """Machines that are talked to at the same time, of those that did not answer last time."""
    slow_patience: float = 12.0
    """How long one of them may take, whatever it does to draw it out."""
    first_retry: float = 1.0
    longest_retry: float = 300.0
    idle: float = 5.0
    """How long to wait at most before looking again: another process may have committed."""
    drain: float = 15.0
    """How long messages under way may take at shutdown; longer than any patience."""

    def retry_after(self, attempts: int) -> float:
        """Seconds until the next attempt after ``attempts`` failures, with full jitter in the
        upper half so that machines that failed together do not come back together."""
        ceiling = min(self.longest_retry, self.first_retry * 2.0 ** min(attempts, 30))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


@dataclass(kw_only=True)
class _Pool:
    failed: bool
    """Whether it is for machines that did not answer last time."""
    lanes: int
    patience: float
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """By instance."""


@dataclass(frozen=True, kw_only=True)
class _Parcel:
    """A sealed message, and how to reach its machine."""

    row: Delivery
    instance: Instance
    token: SecretStr


class OutboxDeliverer:
    """One per process. :meth:`run` until :meth:`close`."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        vault: Vault,
        machines: MachineClient,
        workflows: Workflows,
        clock: Clock,
        pace: Pace | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._vault = vault
        self._machines = machines
        self._clock = clock
        self._pace = pace = pace or Pace()
        self._woken = asyncio.Event()
        self._pools = (
            _Pool(failed=False, lanes=pace.lanes, patience=pace.patience),
            _Pool(failed=True, lanes=pace.slow_lanes, patience=pace.slow_patience),
        )
        writer = OutcomeWriter(
            database=database, workflows=workflows, retry_after=pace.retry_after, wake=self.wake
        )
        self._outcomes = GroupedWrites(writer.write)
        self._closing = False

    def wake(self) -> None:
        """There is something new to deliver; returns at once."""
        self._woken.set()

    async def run(self) -> None:
        """Delivers until :meth:`close`; a failure is logged and does not end it."""
        while not self._closing:
            self._woken.clear()
            try:
                wait = min([await self._start_due(pool) for pool in self._pools])
            except Exception:  # noqa: BLE001 - nobody else would deliver
                _log.exception("deliveries_broke")
                wait = self._pace.idle
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def deliver_due(self) -> None:
        """Delivers what is due now, once, and returns when it is acknowledged or put off."""
        for pool in self._pools:
            await self._start_due(pool)
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Takes nothing new, and lets what is under way end; what does not is sent again later."""
        self._closing = True
        self.wake()
        lanes = self._tasks()
        if lanes:
            _, late = await asyncio.wait(lanes, timeout=self._pace.drain)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._outcomes.settle()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for pool in self._pools for task in pool.tasks.values()]

    def _busy(self) -> list[str]:
        return [instance_id for pool in self._pools for instance_id in pool.tasks]

    async def _start_due(self, pool: _Pool) -> float:
        """Starts a lane for each machine with something due, as far as there are lanes; seconds
        until it should be looked at again. No more is claimed than can be begun at once."""
        free = pool.lanes - len(pool.tasks)
        if free <= 0:
            return self._pace.idle  # the end of a lane wakes
        async with self._database.reading() as tx:
            following = await tx.deliveries.next_attempt(busy=self._busy(), failed=pool.failed)
        if following is None:
            return self._pace.idle
        wait = (following - self._clock()).total_seconds()
        if wait > 0:
            return min(self._pace.idle, wait)
        async with self._database.transaction() as tx:
            due = await tx.deliveries.due(limit=free, busy=self._busy(), failed=pool.failed)
        by_machine = sorted(due, key=lambda pair: (pair[0].instance_id, pair[0].subject))
        group: list[tuple[Delivery, Instance]] = []
        for _, rows in groupby(by_machine, key=lambda pair: pair[0].instance_id):
            group += rows
            if len(group) >= _TOGETHER:
                await self._start(pool, group)
                group = []
        await self._start(pool, group)
        return 0.0

    async def _start(self, pool: _Pool, rows: Sequence[tuple[Delivery, Instance]]) -> None:
        """Seals what is not sealed yet, and starts the lanes of these machines."""
        if not rows:
            return
        try:
            parcels = await self._packed(rows)
        except Exception:  # noqa: BLE001 - one of them spoils the transaction of all
            _log.exception("sealing_broke", size=len(rows))
            parcels = [one for row in rows for one in await self._packed_alone(row)]
        if self._closing:
            return  # nobody waits for further lanes; after the lease it is all due again
        for instance_id, some in groupby(parcels, key=lambda one: one.instance.id):
            lane = self._lane(pool, [*some])
            task = pool.tasks[instance_id] = asyncio.create_task(lane)
            task.add_done_callback(partial(self._ended, pool, instance_id))

    def _ended(self, pool: _Pool, instance_id: str, _: asyncio.Task[None]) -> None:
        del pool.tasks[instance_id]
        self.wake()  # what became due for this machine meanwhile was left out

    async def _packed_alone(self, row: tuple[Delivery, Instance]) -> Sequence[_Parcel | Outcome]:
        try:
            return await self._packed([row])
        except Exception:  # noqa: BLE001 - the others go on
            _log.exception("delivery_broke", subject=row[0].subject, instance_id=row[1].id)
            return [Outcome(row=row[0], instance=row[1], failure=_UNEXPECTED)]

    async def _packed(
        self, rows: Sequence[tuple[Delivery, Instance]]
    ) -> Sequence[_Parcel | Outcome]:
        """In one transaction: sealed messages, and what could not be made into one. A row of which
        nothing is to be sent any more is left out."""
        async with self._database.transaction() as tx:
            sealed = [
                await record(tx, self._vault, result)
                if isinstance(result, EnvelopeRefused)
                else result
                for result in await self._sealer.sealed_all(tx, rows)
            ]
            instances = {instance.id: instance for _, instance in rows}
            tokens = await open_gateway_tokens(self._vault, tx, instances.values())
        packed: list[_Parcel | Outcome] = []
        for (row, instance), result in zip(rows, sealed, strict=True):
            token = tokens.get(instance.id)
            for error in (result, token):
                if isinstance(error, Exception):
                    packed.append(self._unsealed(row, instance, error))
                    break
            else:
                if isinstance(result, Delivery) and isinstance(token, SecretStr):
                    packed.append(_Parcel(row=result, instance=instance, token=token))
        return packed

    def _unsealed(self, row: Delivery, instance: Instance, error: Exception) -> Outcome:
        if isinstance(error, AuraError):
            return Outcome(row=row, instance=instance, failure=error.message)
        _log.error("delivery_broke", subject=row.subject, instance_id=instance.id, exc_info=error)
        return Outcome(row=row, instance=instance, failure=_UNEXPECTED)

    async def _lane(self, pool: _Pool, work: Sequence[_Parcel | Outcome]) -> None:
        """One machine's messages, one after the other. After the first that does not arrive the
        rest is put off untried: it would only wait for the same time-out."""
        unreachable: str | None = None
        async with asyncio.TaskGroup() as written:
            for one in work:
                outcome = one if isinstance(one, Outcome) else None
                if isinstance(one, _Parcel):
                    if unreachable is None:
                        outcome, unreachable = await self._tried(pool, one)
                    else:
                        outcome = _failed(one, unreachable)
                if outcome is not None:
                    written.create_task(self._write(outcome))

    async def _write(self, outcome: Outcome) -> None:
        try:
            await self._outcomes.add(outcome)
        except Exception:  # noqa: BLE001 - after the lease it is delivered again
            row = outcome.row
            _log.exception("outcome_lost", subject=row.subject, instance_id=row.instance_id)

    async def _tried(self, pool: _Pool, parcel: _Parcel) -> tuple[Outcome, str | None]:
        """What came of sending the message, and why the machine cannot be reached, if it cannot."""
        row, instance = parcel.row, parcel.instance
        try:
            return await self._sent(parcel, patience=pool.patience), None
        except (StaleRevision, RevisionConflict) as error:
            return Outcome(row=row, instance=instance, ahead=error), None
        except ProviderUnavailable as error:
            return _failed(parcel, error.message), error.message
        except AuraError as error:
            return _failed(parcel, error.message), None
        except Exception:  # noqa: BLE001 - a lane must not end with rows in hand
            _log.exception("delivery_broke", subject=row.subject, instance_id=instance.id)
            return _failed(parcel, _UNEXPECTED), None

    async def _sent(self, parcel: _Parcel, *, patience: float) -> Outcome:
        """Believes the machine's signature, and nothing else that answered at its address.

        Raises what kept the message from being acknowledged.
        """
        row, instance = parcel.row, parcel.instance
        if row.message is None or instance.push_url is None or instance.sig_public is None:
            raise ProviderUnavailable("The machine cannot be reached (no address).")
        try:
            async with asyncio.timeout(patience):
                answer = await self._machines.push(
                    push_url=instance.push_url,
                    gateway_token=parcel.token,
                    subject=row.subject,
                    message=row.message,
                )
        except TimeoutError:
            raise ProviderUnavailable(
                f"The machine did not answer within {patience:g} s."
            ) from None
        return Outcome(row=row, instance=instance, ack=_verified(answer, row, instance.sig_public))


def _verified(answer: Mapping[str, object], row: Delivery, sig_public: bytes) -> Ack:
    ack = verify_ack(answer, sig_public)
    said = (ack.instance_id, ack.connection_id, ack.revision, ack.digest)
    if said != (row.instance_id, row.subject, row.desired_revision, row.digest):
        raise SignatureInvalid("The machine acknowledged another message than was sent.")
    return ack


def _failed(parcel: _Parcel, reason: str) -> Outcome:
    return Outcome(row=parcel.row, instance=parcel.instance, failure=reason)
