"""What the deliverer asks of the outbox: many rows in one statement each.

One credential may concern a thousand machines. Each step of theirs (wanting, claiming, sealing,
acknowledging) is a few statements for all, whatever their number: a statement costs a hundred times
what a row of it does.

All these statements take their row locks in the order of the rows' key, so that on PostgreSQL no
two transactions wait for each other. Claims skip what is locked and never wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Case, ColumnElement, case, func, or_, select, update

from aura_control.db.columns import milliseconds
from aura_control.db.models import Delivery, DeliveryOp, Instance, InstanceState
from aura_control.db.outbox import Key
from aura_control.db.repositories.outcomes import Outcomes, among, pages

__all__ = ["LACKING", "Outbox"]

_REACHABLE = (InstanceState.ENROLLING, InstanceState.RUNNING, InstanceState.DEGRADED)

_DELIVERABLE = (
    Instance.state.in_(_REACHABLE),
    Instance.push_url.is_not(None),
    Instance.recipient_kid.is_not(None),
    Instance.quarantined_reason.is_(None),
)
"""The machine joined, can be reached and is not quarantined."""

LACKING = or_(
    Delivery.acked_revision.is_(None), Delivery.acked_revision < Delivery.desired_revision
)
"""The machine has not acknowledged what it should hold."""


class Outbox(Outcomes):
    """The rows of all tenants, by key. Only the deliverer's side goes across tenants: its keys come
    out of the database, never from a request."""

    async def desire_on(
        self,
        instances: Sequence[Instance],
        *,
        subject: str,
        op: DeliveryOp,
        actor: str = "system",
        source_revision: int | None = None,
    ) -> Mapping[str, int]:
        """Wants the subject put or deleted on all these machines; instance id to new revision."""
        return await self._desire(
            instances, subject=subject, op=op, actor=actor, source_revision=source_revision
        )

    async def _desire(
        self,
        instances: Sequence[Instance],
        *,
        subject: str,
        op: DeliveryOp,
        actor: str,
        source_revision: int | None,
        above: int = 0,
        attempts: int | None = None,
    ) -> Mapping[str, int]:
        if not instances:
            return {}
        wanted = {
            "op": op,
            "message": None,
            "digest": None,
            "next_attempt_at": self._now,
            "last_error": None,
            "source_revision": source_revision,
        }
        statement = self._insert(Delivery)
        statement = statement.on_conflict_do_update(
            index_elements=["instance_id", "subject"],
            set_={
                **wanted,
                "desired_revision": self._next_revision(above),
                "attempts": _failures() if attempts is None else attempts,
            },
        )
        rows = [
            {
                "instance_id": instance.id,
                "subject": subject,
                "tenant_id": instance.tenant_id,
                "user_id": instance.user_id,
                "desired_revision": max(milliseconds(self._now), above + 1),
                "attempts": attempts or 0,
                **wanted,
            }
            for instance in sorted(instances, key=lambda one: one.id)
        ]
        # RETURNING would make it one statement for each row on SQLite; the rows are locked now.
        await self._many(statement, rows)
        revisions = await self._revisions([Key(one.id, subject) for one in instances])
        for instance in instances:
            await self._journal.audit(
                instance.tenant_id,
                action=f"delivery.{op.value}_wanted",
                actor=actor,
                target=subject,
                agent_id=instance.agent_id,
                metadata={"instance_id": instance.id, "revision": revisions[instance.id]},
            )
        return revisions

    async def _revisions(self, keys: Sequence[Key]) -> Mapping[str, int]:
        """The wanted revisions, by instance."""
        found: dict[str, int] = {}
        for page in pages(keys):
            query = select(Delivery.instance_id, Delivery.desired_revision).where(among(page))
            found |= dict((await self._session.execute(query)).all())
        return found

    async def due(
        self,
        *,
        limit: int = 100,
        lease: timedelta = timedelta(seconds=30),
        busy: Collection[str] = (),
        failed: bool | None = None,
    ) -> Sequence[tuple[Delivery, Instance]]:
        """Takes deliveries of all tenants that are due, each for one worker during ``lease``.

        Those to ``busy`` machines (instance ids) are left for later. ``failed``: only those whose
        last attempts failed, or only the others.

        Only to machines that joined, can be reached and are not quarantined. After the lease a
        delivery that was neither acknowledged nor failed is due again: its worker died.
        """
        query = (
            select(Delivery, Instance)
            .join(Instance, Instance.id == Delivery.instance_id)
            .where(Delivery.next_attempt_at <= self._now, *_waiting(busy, failed))
            # Of those that failed, first who failed least: a machine that was away for a moment
            # does not wait for all those that are gone.
            .order_by(
                Delivery.attempts, Delivery.next_attempt_at, Delivery.instance_id, Delivery.subject
            )
            .limit(limit)
            .with_for_update(of=Delivery, skip_locked=True)
        )
        found = await self._session.execute(query, execution_options={"populate_existing": True})
        taken = [(row, instance) for row, instance in found]
        keys = [Key(row.instance_id, row.subject) for row, _ in taken]
        for page in pages(keys):
            await self._changed(
                update(Delivery).where(among(page)).values(next_attempt_at=self._now + lease)
            )
        return taken

    async def next_attempt(
        self, *, busy: Collection[str] = (), failed: bool | None = None
    ) -> datetime | None:
        """When the next delivery of any tenant is due, but for the busy machines (instance ids);
        None when nothing waits. ``failed`` as for :meth:`due`."""
        query = (
            select(func.min(Delivery.next_attempt_at))
            .join(Instance, Instance.id == Delivery.instance_id)
            .where(*_waiting(busy, failed))
        )
        return (await self._session.execute(query)).scalar_one()

    async def at(self, keys: Collection[Key]) -> Mapping[Key, Delivery]:
        """The rows as they are now."""
        found: dict[Key, Delivery] = {}
        for page in pages(sorted(keys)):
            for row in await self._all(select(Delivery).where(among(page))):
                found[Key(row.instance_id, row.subject)] = row
        return found

    async def of_instances(self, instance_ids: Collection[str]) -> Mapping[str, Sequence[Delivery]]:
        """All that each machine should hold or should have deleted, without the messages."""
        found: dict[str, list[Delivery]] = {instance_id: [] for instance_id in instance_ids}
        for page in pages(sorted(found)):
            for row in await self._all(select(Delivery).where(Delivery.instance_id.in_(page))):
                found[row.instance_id].append(row)
        return found

    def _next_revision(self, above: int = 0) -> Case[int]:
        least, after = max(milliseconds(self._now), above + 1), Delivery.desired_revision + 1
        return case((after > least, after), else_=least)


def _failures() -> Case[int]:
    """Failed attempts since the machine last held what it should: a machine that is gone stays
    known as such, whatever is wanted anew."""
    settled = Delivery.acked_revision == Delivery.desired_revision
    return case((settled, 0), else_=Delivery.attempts)


def _waiting(busy: Collection[str], failed: bool | None) -> list[ColumnElement[bool]]:
    found = [LACKING, *_DELIVERABLE, Instance.id.not_in(busy)]
    if failed is not None:
        found.append(Delivery.attempts > 0 if failed else Delivery.attempts == 0)
    return found
