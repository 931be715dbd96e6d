"""Deleting what is older than a tenant keeps, without breaking its chain."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from aura_control.db.chain import Anchor, Chain, Link, iso
from aura_control.db.models import AuditAnchor, AuditHead, AuditLog
from aura_control.db.repositories.audit import Audit, anchor_of
from aura_core.errors import EnvelopeError, InvalidInput, NotFound

__all__ = ["LONGEST_RETENTION", "Pruned", "Retention"]

LONGEST_RETENTION = 36_500
"""Days: a hundred years, which is for ever."""

_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What one step of pruning did."""

    deleted: int
    done: bool
    """Whether nothing that may go is left for now."""


class Retention(Audit):
    """The beginnings of all chains."""

    async def due(self, *, limit: int) -> Sequence[str]:
        """Tenants that may have entries to delete, by an index."""
        table = AuditAnchor
        query = select(table.tenant_id).where(table.prune_due_at <= self._now)
        return await self._all(query.order_by(table.prune_due_at).limit(limit))

    async def set_days(self, tenant_id: str, days: int, *, actor: str) -> int:
        """How long entries are kept from now on; answers how long it was.

        Raises InvalidInput, NotFound, and EnvelopeError for a closed log or a forged anchor.
        """
        if not 1 <= days <= LONGEST_RETENTION:
            raise InvalidInput(f"Entries are kept for 1 to {LONGEST_RETENTION} days.")
        key = await self._journal.key(tenant_id)
        anchor = await self._held(tenant_id, key)
        await self._journal.audit(
            tenant_id,
            action="audit.retention_set",
            actor=actor,
            target=tenant_id,
            metadata={"days": days, "before": anchor.retention_days},
        )
        await self._move(replace(anchor, retention_days=days).sealed(key), due_at=self._now)
        return anchor.retention_days

    async def put_off(self, tenant_id: str) -> None:
        """Looks again tomorrow."""
        await self._changed(
            update(AuditAnchor)
            .where(AuditAnchor.tenant_id == tenant_id)
            .values(prune_due_at=self._now + _DAY)
        )

    async def prune(self, tenant_id: str, *, limit: int) -> Pruned:
        """Deletes at most ``limit`` of the oldest entries that are older than the tenant keeps.

        Only entries that a delivered checkpoint covers go: what was attested nowhere must not
        vanish. They are verified once more on the way, since nobody can do it later: an altered log
        is evidence and stays, with EnvelopeError. The anchor, the audit entry that tells of it and
        the deletion are one transaction. Raises NotFound, and EnvelopeError for a closed log.
        """
        key = await self._journal.key(tenant_id)
        anchor = await self._held(tenant_id, key)
        before = self._now - timedelta(days=anchor.retention_days)
        covered = select(AuditHead.checkpoint_seq).where(AuditHead.tenant_id == tenant_id)
        until = min(await self._one(covered) or 0, anchor.seq + limit)
        chain = Chain.after(anchor, key)
        younger = await self._pass(chain, before, until)
        deleted = chain.seq - anchor.seq
        done = younger is not None or deleted < limit
        due_at = self._now
        if done:
            kept_until = younger and younger + timedelta(days=anchor.retention_days)
            due_at = max(self._now + _DAY, kept_until or self._now)
        if not deleted:
            await self._move(anchor, due_at=due_at)
            return Pruned(deleted=0, done=True)
        moved = replace(
            anchor, seq=chain.seq, mac=chain.mac.decode(), written=chain.anchor_text
        ).sealed(key)
        await self._move(moved, due_at=due_at)
        await self._session.execute(
            delete(AuditLog).where(AuditLog.tenant_id == tenant_id, AuditLog.seq <= moved.seq)
        )
        await self._journal.audit(
            tenant_id,
            action="audit.pruned",
            actor="system",
            target=tenant_id,
            metadata={
                "through": moved.seq,
                "mac": moved.mac,
                "deleted": deleted,
                "before": iso(before),
                "days": moved.retention_days,
            },
        )
        return Pruned(deleted=deleted, done=done)

    async def _pass(self, chain: Chain, before: datetime, until: int) -> datetime | None:
        """Walks over what is older than ``before``; the time of the first that is not."""
        end = iso(before).encode()
        async with aclosing(self.links(chain.tenant_id, after=chain.seq, until=until)) as pages:
            async for page in pages:
                for link in page:
                    if link.at >= end:
                        return datetime.fromisoformat(link.at.decode())
                    self._take(chain, link)
        return None

    @staticmethod
    def _take(chain: Chain, link: Link) -> None:
        if chain.take(link) is not None:
            raise EnvelopeError(
                f"Entry {chain.seq + 1} of the audit log is not what was written: nothing older"
                " than it is deleted.",
                hint="Run: aura audit verify",
            )

    async def _held(self, tenant_id: str, key: bytes) -> Anchor:
        """The anchor, locked for this transaction, with its proof checked: a forged one would have
        the control plane itself delete what should be kept."""
        query = select(AuditAnchor).where(AuditAnchor.tenant_id == tenant_id).with_for_update()
        row = await self._one(query)
        if row is None:
            raise NotFound("The tenant's audit log has no anchor.")
        anchor = anchor_of(row)
        if not anchor.proves(key):
            raise EnvelopeError(
                "The anchor of the tenant's audit log is forged: nothing is deleted.",
                hint="Run: aura audit verify",
            )
        return anchor

    async def _move(self, anchor: Anchor, *, due_at: datetime) -> None:
        await self._changed(
            update(AuditAnchor)
            .where(AuditAnchor.tenant_id == anchor.tenant_id)
            .values(**asdict(anchor), prune_due_at=due_at)
        )
