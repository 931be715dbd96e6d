"""What came of messages, for many of them in one statement each: see ``outbox``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, bindparam, or_, select, tuple_, update

from aura_control.db.columns import Base
from aura_control.db.models import Delivery, DeliveryOp
from aura_control.db.outbox import Acknowledged, Key, Receipt, Sealed, Setback
from aura_control.db.repositories.base import Repository

__all__ = ["Outcomes", "among", "pages"]

T = TypeVar("T")

_PAGE = 500
"""Rows in one statement: both databases limit its parameters."""


_TABLE = Base.metadata.tables["deliveries"]
_BOUND_KEY = (
    _TABLE.c.instance_id == bindparam("b_instance"),
    _TABLE.c.subject == bindparam("b_subject"),
)


class Outcomes(Repository):
    """Sealing, acknowledging, failing. The keys come out of the database or are checked against
    the tenant that is named beside them."""

    async def store_messages(self, messages: Sequence[Sealed]) -> None:
        """Keeps each revision's message, unless another is wanted by now or there is one.

        There is one message for a revision for ever: the machine takes an equal revision with
        another digest for a forgery. The caller reads the rows again.
        """
        await self._many(
            update(_TABLE)
            .where(
                *_BOUND_KEY,
                _TABLE.c.desired_revision == bindparam("b_revision"),
                _TABLE.c.message.is_(None),
            )
            .values(message=bindparam("b_message"), digest=bindparam("b_digest")),
            [
                {
                    **_bound(one.key),
                    "b_revision": one.revision,
                    "b_message": one.message,
                    "b_digest": one.digest,
                }
                for one in sorted(messages, key=lambda one: one.key)
            ],
        )

    async def acknowledge(self, receipts: Sequence[Receipt]) -> Sequence[Acknowledged]:
        """Remembers verified acknowledgements, audits those that say something new, and answers
        for each what became of it, in order.

        An acknowledgement of an earlier revision is remembered too, one that is older than what
        is known changes nothing. One of the wanted revision counts only with the digest of the
        message that was sent.
        """
        rows = await self._locked({receipt.key for receipt in receipts})
        outcomes, writes = [], []
        for receipt in receipts:
            row = rows.get((receipt.tenant_id, *receipt.key))
            changed = row is not None and row.believes(receipt)
            if row is not None and changed:
                row.acked = receipt.revision
                writes.append(receipt)
            outcomes.append(
                Acknowledged(
                    changed=changed,
                    settled=row is not None and row.acked == row.desired,
                    op=None if row is None else row.op,
                )
            )
        await self._many(
            update(_TABLE)
            .where(*_BOUND_KEY)
            .values(
                acked_revision=bindparam("b_revision"),
                acked_digest=bindparam("b_digest"),
                acked_at=self._now,
            ),
            [
                {**_bound(one.key), "b_revision": one.revision, "b_digest": one.digest}
                for one in writes
            ],
        )
        for one in writes:
            await self._journal.audit(
                one.tenant_id,
                action="delivery.acknowledged",
                actor=f"vm:{one.key.instance_id}",
                target=one.key.subject,
                metadata={"revision": one.revision, "digest": one.digest},
            )
        return outcomes

    async def put_off(self, setbacks: Sequence[Setback]) -> None:
        """Remembers failed attempts, each if its revision is still the wanted one and lacking."""
        await self._many(
            update(_TABLE)
            .where(
                *_BOUND_KEY,
                _TABLE.c.desired_revision == bindparam("b_revision"),
                or_(
                    _TABLE.c.acked_revision.is_(None),
                    _TABLE.c.acked_revision < _TABLE.c.desired_revision,
                ),
            )
            .values(
                attempts=_TABLE.c.attempts + 1,
                last_error=bindparam("b_error"),
                next_attempt_at=bindparam("b_retry_at"),
            ),
            [
                {
                    **_bound(one.key),
                    "b_revision": one.revision,
                    "b_error": one.error,
                    "b_retry_at": one.retry_at,
                }
                for one in sorted(setbacks, key=lambda one: one.key)
            ],
        )

    async def _locked(self, keys: Collection[Key]) -> dict[tuple[str, str, str], _State]:
        """The rows' states, locked until the transaction ends; without their messages."""
        found = {}
        for page in pages(sorted(keys)):
            query = (
                select(
                    Delivery.tenant_id,
                    Delivery.instance_id,
                    Delivery.subject,
                    Delivery.op,
                    Delivery.desired_revision,
                    Delivery.acked_revision,
                    Delivery.digest,
                )
                .where(among(page))
                .order_by(Delivery.instance_id, Delivery.subject)
                .with_for_update()
            )
            for row in await self._session.execute(query):
                tenant_id, instance_id, subject, op, desired, acked, digest = row
                state = _State(op=op, desired=desired, acked=acked, digest=digest)
                found[tenant_id, instance_id, subject] = state
        return found

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
        """:meth:`store_messages` for one; whether it is the message of that revision now."""
        key = Key(instance_id, subject)
        one = Sealed(key=key, revision=revision, message=message, digest=digest)
        await self.store_messages([one])
        row = (await self._locked([key])).get((tenant_id, *key))
        return row is not None and (row.desired, row.digest) == (revision, digest)

    async def acked(
        self, *, tenant_id: str, instance_id: str, subject: str, revision: int, digest: str
    ) -> bool:
        """:meth:`acknowledge` for one; whether the machine now holds what it should."""
        receipt = Receipt(
            key=Key(instance_id, subject), tenant_id=tenant_id, revision=revision, digest=digest
        )
        (outcome,) = await self.acknowledge([receipt])
        return outcome.settled

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
        """:meth:`put_off` for one."""
        setback = Setback(
            key=Key(instance_id, subject), revision=revision, error=error, retry_at=retry_at
        )
        await self.put_off([setback])


@dataclass(kw_only=True)
class _State:
    """A locked row, as far as acknowledgements concern it."""

    op: DeliveryOp
    desired: int
    acked: int | None
    digest: str | None

    def believes(self, receipt: Receipt) -> bool:
        """Whether the receipt is news, and not about something that was never sent."""
        if self.acked is not None and self.acked >= receipt.revision:
            return False
        return receipt.revision < self.desired or (
            receipt.revision == self.desired and receipt.digest == self.digest
        )


def among(keys: Sequence[Key]) -> ColumnElement[bool]:
    return tuple_(Delivery.instance_id, Delivery.subject).in_(keys)


def pages(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _PAGE):
        yield values[start : start + _PAGE]


def _bound(key: Key) -> dict[str, Any]:
    return {"b_instance": key.instance_id, "b_subject": key.subject}
