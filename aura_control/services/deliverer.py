"""The background task that brings to machines what the outbox wants them to hold.

It is only the fast path: a machine that is not reached, or a message that is lost, is mended when
the machine pulls. So nothing here may hold anything else up: each machine has a lane of its own,
with one message under way, and a machine that does not answer waits longer from time to time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any

from pydantic import SecretStr

from aura_control.db.engine import Database
from aura_control.db.models import Delivery, Instance
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.ports import Clock, MachineClient, Workflows
from aura_control.services.delivery import take_ack
from aura_control.services.enrolment import open_gateway_token
from aura_control.services.heartbeats import tell_progress
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.refusals import refuse
from aura_control.services.sealing import Sealer
from aura_core.errors import (
    AuraError,
    ProviderUnavailable,
    RevisionConflict,
    SignatureInvalid,
    StaleRevision,
)
from aura_core.wire import verify_ack

__all__ = ["OutboxDeliverer", "Pace"]

_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How the deliverer paces itself. Times are in seconds."""

    lanes: int = 16
    """Machines that are talked to at the same time."""
    first_retry: float = 1.0
    longest_retry: float = 300.0
    idle: float = 5.0
    """How long to wait at most before looking again: another process may have committed."""
    drain: float = 15.0
    """How long messages under way may take at shutdown; longer than the client's time-out."""

    def retry_after(self, attempts: int) -> float:
        """Seconds until the next attempt after ``attempts`` failures, with full jitter in the
        upper half so that machines that failed together do not come back together."""
        ceiling = min(self.longest_retry, self.first_retry * 2.0 ** min(attempts, 30))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


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
        self._workflows = workflows
        self._clock = clock
        self._pace = pace or Pace()
        self._woken = asyncio.Event()
        self._slots = asyncio.Semaphore(self._pace.lanes)
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def wake(self) -> None:
        """There is something new to deliver; returns at once."""
        self._woken.set()

    async def run(self) -> None:
        """Delivers until :meth:`close`; a failure is logged and does not end it."""
        while not self._closing:
            self._woken.clear()
            try:
                wait = await self._round()
            except Exception:  # noqa: BLE001 - nobody else would deliver
                _log.exception("deliveries_broke")
                wait = self._pace.idle
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Takes nothing new, and lets what is under way end; what does not is sent again later."""
        self._closing = True
        self.wake()
        lanes = [*self._lanes.values()]
        if lanes:
            _, late = await asyncio.wait(lanes, timeout=self._pace.drain)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _round(self) -> float:
        """Starts a lane for each machine with something due; seconds until the next round."""
        async with self._database.reading() as tx:
            following = await tx.deliveries.next_attempt(busy=self._lanes.keys())
        if following is None:
            return self._pace.idle
        wait = (following - self._clock()).total_seconds()
        if wait > 0:
            return min(self._pace.idle, wait)
        async with self._database.transaction() as tx:
            due = await tx.deliveries.due(busy=self._lanes.keys())
        by_machine = sorted(due, key=lambda row: row.instance_id)
        for instance_id, rows in groupby(by_machine, key=lambda row: row.instance_id):
            task = asyncio.create_task(self._lane(instance_id, [*rows]))
            self._lanes[instance_id] = task
            task.add_done_callback(partial(self._ended, instance_id))
        return 0.0

    def _ended(self, instance_id: str, _: asyncio.Task[None]) -> None:
        del self._lanes[instance_id]
        self.wake()  # what became due for this machine meanwhile was left out

    async def _lane(self, instance_id: str, rows: Sequence[Delivery]) -> None:
        """One machine's messages, one after the other. After the first that does not arrive the
        rest is put off untried: it would only wait for the same time-out."""
        unreachable: str | None = None
        async with self._slots:
            for row in rows:
                try:
                    if unreachable is not None:
                        await self._failed(row, unreachable)
                    else:
                        await self.deliver(row)
                except ProviderUnavailable as error:
                    unreachable = error.message
                    await self._failed(row, unreachable)
                except AuraError as error:
                    await self._failed(row, error.message)
                except Exception:  # noqa: BLE001 - a lane must not end with rows in hand
                    _log.exception("delivery_broke", subject=row.subject, instance_id=instance_id)
                    await self._failed(row, "An unexpected error; the log says which.")

    async def deliver(self, row: Delivery) -> None:
        """Sends one delivery. Raises what kept it from being acknowledged; nothing is lost."""
        try:
            async with self._database.transaction() as tx:
                instance = await tx.instances.get(
                    tenant_id=row.tenant_id, instance_id=row.instance_id
                )
                sealed = await self._sealer.sealed(tx, instance=instance, subject=row.subject)
                token = await self._gateway_token(tx, instance)
        except EnvelopeRefused as refused:
            error = await refuse(self._database, self._vault, refused)
            raise error from refused
        if sealed is None or sealed.message is None or token is None or instance.push_url is None:
            return
        try:
            answer = await self._machines.push(
                push_url=instance.push_url,
                gateway_token=token,
                subject=row.subject,
                message=sealed.message,
            )
        except (StaleRevision, RevisionConflict) as error:
            await self._lift(sealed, instance, error)
            return
        await self._acknowledged(sealed, instance, answer)

    async def _gateway_token(self, tx: Transaction, instance: Instance) -> SecretStr | None:
        if instance.gateway_token is None:
            return None
        return await open_gateway_token(self._vault, tx, instance)

    async def _acknowledged(
        self, row: Delivery, instance: Instance, answer: Mapping[str, Any]
    ) -> None:
        """Believes the machine's signature, and nothing else that answered at its address."""
        if instance.sig_public is None:
            return
        ack = verify_ack(answer, instance.sig_public)
        said = (ack.instance_id, ack.connection_id, ack.revision, ack.digest)
        if said != (instance.id, row.subject, row.desired_revision, row.digest):
            raise SignatureInvalid("The machine acknowledged another message than was sent.")
        async with self._database.transaction() as tx:
            await take_ack(tx, instance=instance, ack=ack)
        await tell_progress(self._workflows, instance)

    async def _lift(
        self, row: Delivery, instance: Instance, error: StaleRevision | RevisionConflict
    ) -> None:
        """The machine holds something newer than this database knows of, or something else of the
        same revision: what is wanted is said again, above it.

        The answer is not authenticated, so a stranger at the machine's address can cause this: it
        costs a revision, and from the second time on it waits like any failure.
        """
        async with self._database.transaction() as tx:
            if isinstance(error, RevisionConflict):
                await tx.instances.alarm(
                    instance,
                    "delivery.conflict",
                    {"subject": row.subject, "revision": row.desired_revision},
                )
            revision = await tx.deliveries.desire(
                tenant_id=row.tenant_id,
                instance_id=row.instance_id,
                subject=row.subject,
                op=row.op,
                source_revision=row.source_revision,
                above=error.stored,
                attempts=row.attempts + 1,
            )
            if row.attempts:
                await self._put_off(tx, row, revision, error.message)
        self.wake()

    async def _failed(self, row: Delivery, reason: str) -> None:
        async with self._database.transaction() as tx:
            await self._put_off(tx, row, row.desired_revision, reason)

    async def _put_off(self, tx: Transaction, row: Delivery, revision: int, reason: str) -> None:
        await tx.deliveries.failed(
            tenant_id=row.tenant_id,
            instance_id=row.instance_id,
            subject=row.subject,
            revision=revision,
            error=reason,
            retry_at=tx.now + timedelta(seconds=self._pace.retry_after(row.attempts)),
        )
