"""The outbox of what machines should hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select, update

from aura_control.db.models import Delivery, DeliveryOp, Instance
from aura_control.db.repositories.outbox import LACKING, Outbox
from aura_core.errors import NotFound

__all__ = ["Deliveries"]


class Deliveries(Outbox):
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
        attempts: int | None = None,
    ) -> int:
        """Wants the subject put or deleted; answers its new revision.

        The revision is ``max(previous + 1, above + 1, milliseconds now)``; ``above`` is what the
        machine says it holds, where that is more than is known here. An earlier message is
        dropped: the new one has to be sealed. ``attempts`` are those of this wish that already
        failed; when None, those since the machine last held what it should. Raises NotFound
        without the instance.
        """
        owner = select(Instance).where(Instance.id == instance_id, Instance.tenant_id == tenant_id)
        instance = await self._one(owner)
        if instance is None:
            raise NotFound("There is no such instance.")
        revisions = await self._desire(
            [instance],
            subject=subject,
            op=op,
            actor=actor,
            source_revision=source_revision,
            above=above,
            attempts=attempts,
        )
        return revisions[instance_id]

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

    async def of_user(
        self, *, tenant_id: str, user_id: str, subjects: Collection[str]
    ) -> Sequence[tuple[Delivery, Instance]]:
        """What is wanted of these subjects on every machine of the user, by subject and machine.

        The user is named although a connection is one user's: a machine may claim to hold
        anything, also another user's connection, and is then told to forget it.
        """
        query = (
            select(Delivery, Instance)
            .join(Instance, Instance.id == Delivery.instance_id)
            .where(
                Delivery.subject.in_(subjects),
                Delivery.tenant_id == tenant_id,
                Delivery.user_id == user_id,
            )
            .order_by(Delivery.subject, Delivery.instance_id)
        )
        found = await self._session.execute(query, execution_options={"populate_existing": True})
        return [*found]

    async def get(self, *, tenant_id: str, instance_id: str, subject: str) -> Delivery | None:
        """One delivery as it is now."""
        return await self._one(
            select(Delivery).where(
                Delivery.instance_id == instance_id,
                Delivery.subject == subject,
                Delivery.tenant_id == tenant_id,
            )
        )

    async def again(self, *, tenant_id: str, instance_id: str) -> None:
        """Makes everything that the machine lacks due now: it was just heard of."""
        await self._changed(
            update(Delivery)
            .where(Delivery.instance_id == instance_id, Delivery.tenant_id == tenant_id, LACKING)
            .values(next_attempt_at=self._now)
        )
