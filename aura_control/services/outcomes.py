"""What came of messages to machines, and what follows from it in the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from aura_control.db.engine import Database
from aura_control.db.models import Delivery, Instance
from aura_control.db.outbox import Key, Setback
from aura_control.db.transaction import Transaction
from aura_control.ports import Workflows
from aura_control.services.acknowledging import take_acks
from aura_control.services.heartbeats import tell_progress
from aura_core.errors import RevisionConflict, StaleRevision
from aura_core.wire import Ack

__all__ = ["Outcome", "OutcomeWriter"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one delivery: a verified acknowledgement, the machine's word that it holds
    something newer or else, or a failure in words for a person. Exactly one of the three."""

    row: Delivery
    instance: Instance
    ack: Ack | None = None
    ahead: StaleRevision | RevisionConflict | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.ack, self.ahead, self.failure)) != 1:
            raise ValueError("an outcome is one of three")


class OutcomeWriter:
    """Writes outcomes. Repeating one changes nothing but the count of failures."""

    def __init__(
        self,
        *,
        database: Database,
        workflows: Workflows,
        retry_after: Callable[[int], float],
        wake: Callable[[], None],
    ) -> None:
        """``retry_after``: seconds until the next attempt after so many failures. ``wake`` is
        called when there is something new to deliver."""
        self._database = database
        self._workflows = workflows
        self._retry_after = retry_after
        self._wake = wake

    async def write(self, outcomes: Sequence[Outcome]) -> None:
        """All of them in one transaction."""
        async with self._database.transaction() as tx:
            await take_acks(tx, [(one.instance, one.ack) for one in outcomes if one.ack])
            await tx.deliveries.put_off([self._setback(tx, one) for one in outcomes if one.failure])
            for one in outcomes:
                if one.ahead is not None:
                    await self._lift(tx, one, one.ahead)
        if any(one.ahead for one in outcomes):
            self._wake()
        for instance in {one.instance.id: one.instance for one in outcomes if one.ack}.values():
            await tell_progress(self._workflows, instance)

    async def _lift(
        self, tx: Transaction, outcome: Outcome, error: StaleRevision | RevisionConflict
    ) -> None:
        """The machine holds something newer than this database knows of, or something else of the
        same revision: what is wanted is said again, above it.

        The answer is not authenticated, so a stranger at the machine's address can cause this: it
        costs a revision, and from the second time on it waits like any failure.
        """
        row, instance = outcome.row, outcome.instance
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
            await tx.deliveries.put_off(
                [self._setback(tx, outcome, revision=revision, error=error.message)]
            )

    def _setback(
        self,
        tx: Transaction,
        outcome: Outcome,
        *,
        revision: int | None = None,
        error: str | None = None,
    ) -> Setback:
        row = outcome.row
        return Setback(
            key=Key(row.instance_id, row.subject),
            revision=row.desired_revision if revision is None else revision,
            error=error or outcome.failure or "",
            retry_at=tx.now + timedelta(seconds=self._retry_after(row.attempts)),
        )
