"""The outbox of what machines should hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Case, case, func, or_, select, update
from sqlalchemy.sql.dml import Update

from aura_control.db.columns import milliseconds
from aura_control.db.models import Delivery, DeliveryOp, Instance, InstanceState
from aura_control.db.repositories.base import Repository
from aura_core.errors import NotFound

__all__ = ["Deliveries"]

_REACHABLE = (InstanceState.ENROLLING, InstanceState.RUNNING, InstanceState.DEGRADED)

_DELIVERABLE = (
    Instance.state.in_(_REACHABLE),
    Instance.push_url.is_not(None),
    Instance.recipient_kid.is_not(None),
    Instance.quarantined_reason.is_(None),
)
"""The machine joined, can be reached and is not quarantined."""

_LACKING = or_(
    Delivery.acked_revision.is_(None), Delivery.acked_revision < Delivery.desired_revision
)


class Deliveries(Repository):
    """For each machine and subject: what should be there, and what the machine said is there."""

    async def desire(
        self,
        *,
        tenant_id: str,
        instance_id: str,
        subject: str,
        op: DeliveryOp,
        actor: str = "system",
        source_revision: int | None = None,
        above: int = 0,
        attempts: int = 0,
    ) -> int:
        """Wants the subject put or deleted; answers its new revision.

        The revision is ``max(previous + 1, above + 1, milliseconds now)``; ``above`` is what the
        machine says it holds, where that is more than is known here. An earlier message is
        dropped: the new one has to be sealed. ``attempts`` are those of this wish that already
        failed. Raises NotFound without the instance.
        """
        owner = select(Instance).where(Instance.id == instance_id, Instance.tenant_id == tenant_id)
        instance = await self._one(owner)
        if instance is None:
            raise NotFound("There is no such instance.")
        wanted = {
            "op": op,
            "message": None,
            "digest": None,
            "attempts": attempts,
            "next_attempt_at": self._now,
            "last_error": None,
            "source_revision": source_revision,
        }
        statement = (
            self._insert(Delivery)
            .values(
                instance_id=instance_id,
                subject=subject,
                tenant_id=tenant_id,
                user_id=instance.user_id,
                desired_revision=max(milliseconds(self._now), above + 1),
                **wanted,
            )
            .on_conflict_do_update(
                index_elements=["instance_id", "subject"],
                set_={**wanted, "desired_revision": self._next_revision(above)},
            )
            .returning(Delivery)
        )
        row = await self._written(statement)
        await self._journal.audit(
            tenant_id,
            action=f"delivery.{op.value}_wanted",
            actor=actor,
            target=subject,
            agent_id=instance.agent_id,
            metadata={"instance_id": instance_id, "revision": row.desired_revision},
        )
        return row.desired_revision

    async def renew(self, *, tenant_id: str, instance_id: str) -> None:
        """Wants everything again, for a machine with new keys: what was sealed is of no use."""
        await self._changed(
            update(Delivery)
            .where(Delivery.instance_id == instance_id, Delivery.tenant_id == tenant_id)
            .values(
                desired_revision=self._next_revision(),
                message=None,
                digest=None,
                attempts=0,
                next_attempt_at=self._now,
                last_error=None,
            )
        )

    async def store_message(
        self,
        *,
        tenant_id: str,
        instance_id: str,
        subject: str,
        revision: int,
        message: bytes,
        digest: str,
    ) -> bool:
        """Keeps the sealed message of a revision; False: another is wanted, or there is one.

        There is one message for a revision for ever: the machine takes an equal revision with
        another digest for a forgery. A caller that gets False reads the row again.
        """
        return await self._changed(
            update(Delivery)
            .where(
                Delivery.instance_id == instance_id,
                Delivery.subject == subject,
                Delivery.tenant_id == tenant_id,
                Delivery.desired_revision == revision,
                Delivery.message.is_(None),
            )
            .values(message=message, digest=digest)
        )

    async def due(
        self,
        *,
        limit: int = 100,
        lease: timedelta = timedelta(seconds=30),
        busy: Collection[str] = (),
    ) -> Sequence[Delivery]:
        """Takes deliveries of all tenants that are due, each for one worker during ``lease``.

        Those to ``busy`` machines (instance ids) are left for later.

        Only to machines that joined, can be reached and are not quarantined. After the lease a
        delivery that was neither acknowledged nor failed is due again: its worker died.
        """
        query = (
            select(Delivery)
            .join(Instance, Instance.id == Delivery.instance_id)
            .where(
                _LACKING,
                Delivery.next_attempt_at <= self._now,
                *_DELIVERABLE,
                Instance.id.not_in(busy),
            )
            .order_by(Delivery.next_attempt_at, Delivery.instance_id, Delivery.subject)
            .limit(limit)
            .with_for_update(of=Delivery, skip_locked=True)
        )
        taken = await self._all(query)
        for row in taken:
            await self._changed(
                self._row(row.tenant_id, row.instance_id, row.subject).values(
                    next_attempt_at=self._now + lease
                )
            )
        return taken

    async def next_attempt(self, *, busy: Collection[str] = ()) -> datetime | None:
        """When the next delivery of any tenant is due, but for the busy machines (instance ids);
        None when nothing waits."""
        query = (
            select(func.min(Delivery.next_attempt_at))
            .join(Instance, Instance.id == Delivery.instance_id)
            .where(_LACKING, *_DELIVERABLE, Instance.id.not_in(busy))
        )
        return (await self._session.execute(query)).scalar_one()

    async def for_instance(self, *, tenant_id: str, instance_id: str) -> Sequence[Delivery]:
        """All that the machine should hold or should have deleted, by subject."""
        query = select(Delivery).where(
            Delivery.instance_id == instance_id, Delivery.tenant_id == tenant_id
        )
        return await self._all(query.order_by(Delivery.subject))

    async def for_subject(self, *, tenant_id: str, subject: str) -> Sequence[Delivery]:
        """What is wanted of one subject on every machine, by machine."""
        query = select(Delivery).where(Delivery.subject == subject, Delivery.tenant_id == tenant_id)
        return await self._all(query.order_by(Delivery.instance_id))

    async def get(self, *, tenant_id: str, instance_id: str, subject: str) -> Delivery | None:
        """One delivery as it is now."""
        return await self._one(
            select(Delivery).where(
                Delivery.instance_id == instance_id,
                Delivery.subject == subject,
                Delivery.tenant_id == tenant_id,
            )
        )

    async def acked(
        self, *, tenant_id: str, instance_id: str, subject: str, revision: int, digest: str
    ) -> bool:
        """Remembers a signed acknowledgement; whether the machine now holds what it should.

        An acknowledgement of an earlier revision is remembered too, one that is older than what
        is known changes nothing. One of the wanted revision counts only with the digest of the
        message that was sent.
        """
        known = or_(
            Delivery.acked_revision.is_(None),
            Delivery.acked_revision < revision,
        )
        believable = or_(
            Delivery.desired_revision > revision,
            (Delivery.desired_revision == revision) & (Delivery.digest == digest),
        )
        row = await self._one(
            self._row(tenant_id, instance_id, subject)
            .where(known, believable)
            .values(acked_revision=revision, acked_digest=digest, acked_at=self._now)
            .returning(Delivery)
        )
        if row is not None:
            await self._journal.audit(
                tenant_id,
                action="delivery.acknowledged",
                actor=f"vm:{instance_id}",
                target=subject,
                metadata={"revision": revision, "digest": digest},
            )
        else:
            row = await self.get(tenant_id=tenant_id, instance_id=instance_id, subject=subject)
        return row is not None and row.acked_revision == row.desired_revision

    async def failed(
        self,
        *,
        tenant_id: str,
        instance_id: str,
        subject: str,
        revision: int,
        error: str,
        retry_at: datetime,
    ) -> None:
        """Remembers a failed attempt of this revision; ``error`` is for a person, no secret."""
        await self._changed(
            self._row(tenant_id, instance_id, subject)
            .where(Delivery.desired_revision == revision, _LACKING)
            .values(attempts=Delivery.attempts + 1, last_error=error, next_attempt_at=retry_at)
        )

    async def again(self, *, tenant_id: str, instance_id: str) -> None:
        """Makes everything that the machine lacks due now: it was just heard of."""
        await self._changed(
            update(Delivery)
            .where(Delivery.instance_id == instance_id, Delivery.tenant_id == tenant_id, _LACKING)
            .values(next_attempt_at=self._now)
        )

    def _next_revision(self, above: int = 0) -> Case[int]:
        least, after = max(milliseconds(self._now), above + 1), Delivery.desired_revision + 1
        return case((after > least, after), else_=least)

    @staticmethod
    def _row(tenant_id: str, instance_id: str, subject: str) -> Update:
        return update(Delivery).where(
            Delivery.instance_id == instance_id,
            Delivery.subject == subject,
            Delivery.tenant_id == tenant_id,
        )
