"""Which entries need a signed checkpoint, and which have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import case, null, select, update

from aura_control.db.chain import iso
from aura_control.db.journal import CHECKPOINT_AFTER, CHECKPOINT_EVERY
from aura_control.db.models import AuditHead, AuditLog
from aura_control.db.repositories.base import Repository
from aura_core.checkpoints import Checkpoint

__all__ = ["Checkpoints"]


class Checkpoints(Repository):
    """The heads of all chains, as far as checkpoints go."""

    async def due(self, *, limit: int, beyond: Sequence[str] = ()) -> Sequence[str]:
        """Tenants whose checkpoint is due, the one that waits longest first, without those of
        ``beyond``: one look into an index, however many tenants there are."""
        head = AuditHead
        query = select(head.tenant_id).where(head.checkpoint_due_at <= self._now)
        if beyond:
            query = query.where(head.tenant_id.not_in(beyond))
        return await self._all(query.order_by(head.checkpoint_due_at).limit(limit))

    async def claim(self, tenant_ids: Sequence[str]) -> Mapping[str, Checkpoint | None]:
        """Records the checkpoint that each tenant gets next, and answers it.

        Recorded before it is asked for: until it is known to have been kept, everybody who asks is
        given the same one, so that no crash leaves two. None where the entry is missing. Tenants
        without anything new are left out.
        """
        head = AuditHead
        # In one order for everybody, as the journal takes them: nobody waits for each other.
        await self._all(
            select(head.tenant_id)
            .where(head.tenant_id.in_(tenant_ids))
            .order_by(head.tenant_id)
            .with_for_update()
        )
        await self._changed(
            update(head)
            .where(
                head.tenant_id.in_(tenant_ids),
                head.checkpoint_next == head.checkpoint_seq,
                head.seq > head.checkpoint_seq,
            )
            .values(checkpoint_next=head.seq)
        )
        rows = await self._session.execute(
            select(
                head.tenant_id, head.checkpoint_next, head.checkpoint_seq, AuditLog.mac, AuditLog.at
            )
            .outerjoin(
                AuditLog,
                (AuditLog.tenant_id == head.tenant_id) & (AuditLog.seq == head.checkpoint_next),
            )
            .where(head.tenant_id.in_(tenant_ids), head.checkpoint_next > head.checkpoint_seq)
        )
        return {
            tenant_id: None
            if mac is None
            else Checkpoint(tenant_id=tenant_id, seq=seq, mac=mac, at=iso(at), previous=previous)
            for tenant_id, seq, previous, mac, at in rows
        }

    async def delivered(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Remembers that they lie at their place; the next is due as the journal would say."""
        head = AuditHead
        for checkpoint in sorted(checkpoints, key=lambda one: one.tenant_id):
            await self._changed(
                update(head)
                .where(
                    head.tenant_id == checkpoint.tenant_id,
                    head.checkpoint_next == checkpoint.seq,
                    head.checkpoint_seq == checkpoint.previous,
                )
                .values(
                    checkpoint_seq=checkpoint.seq,
                    checkpoint_at=self._now,
                    checkpoint_due_at=case(
                        (head.seq == checkpoint.seq, null()),
                        (head.seq - checkpoint.seq >= CHECKPOINT_EVERY, self._now),
                        else_=self._now + CHECKPOINT_AFTER,
                    ),
                )
            )
