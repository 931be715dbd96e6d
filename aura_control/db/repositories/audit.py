"""The audit log: append, read, verify."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select

from aura_control.db.journal import GENESIS, entry_mac
from aura_control.db.models import AuditHead, AuditLog, ConnectionStatus
from aura_control.db.repositories.base import Repository

__all__ = ["Audit", "AuditEntry", "AuditState", "AuditVerdict"]


class AuditState(StrEnum):
    """What verifying a chain found."""

    WHOLE = "whole"
    ALTERED = "altered"
    GAP = "gap"
    TRUNCATED = "truncated"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, kw_only=True)
class AuditVerdict:
    """The answer about one tenant's chain; ``seq`` is the first entry in trouble."""

    state: AuditState
    entries: int
    seq: int | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One entry as a reader sees it."""

    seq: int
    action: str
    actor: str
    target: str
    agent_id: str | None
    metadata: Mapping[str, Any]
    at: datetime


@dataclass(kw_only=True)
class _Chain:
    """A walk along a chain: where it is, and the last write of each connection on the way."""

    tenant_id: str
    key: bytes
    seq: int = 0
    mac: str = GENESIS
    written: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    def take(self, row: AuditLog) -> AuditState | None:
        """Goes one entry further, or says what is wrong with it."""
        if (row.seq, row.prev) != (self.seq + 1, self.mac):
            return AuditState.GAP
        mac = entry_mac(
            self.key, tenant_id=self.tenant_id, seq=row.seq, prev=row.prev, entry=row.entry
        )
        if not hmac.compare_digest(mac, row.mac):
            return AuditState.ALTERED
        self.seq, self.mac = row.seq, mac
        entry = json.loads(row.entry)
        if "envelope_digest" in (data := entry["metadata"]):
            self.written[entry["target"]] = (data["revision"], data["envelope_digest"])
        return None


class Audit(Repository):
    """Each tenant's chain of entries."""

    async def append(
        self,
        tenant_id: str,
        *,
        action: str,
        actor: str,
        target: str,
        agent_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an entry, written when the transaction commits.

        ``actor`` is ``user:<id>``, ``vm:<instance id>`` or ``system``. ``metadata`` is JSON and
        never holds a secret. Raises NotFound, and EnvelopeError for a shredded tenant.
        """
        await self._journal.audit(
            tenant_id,
            action=action,
            actor=actor,
            target=target,
            agent_id=agent_id,
            metadata=metadata,
        )

    async def entries(
        self,
        *,
        tenant_id: str,
        agent_id: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[AuditEntry]:
        """Newest first, committed ones; ``before`` is a ``seq``; ``agent_id`` narrows them."""
        query = select(AuditLog).where(AuditLog.tenant_id == tenant_id)
        if before is not None:
            query = query.where(AuditLog.seq < before)
        if agent_id is not None:
            quoted = json.dumps(agent_id, ensure_ascii=False)
            query = query.where(AuditLog.entry.contains(f'"agent_id":{quoted},', autoescape=True))
        rows = await self._all(query.order_by(AuditLog.seq.desc()).limit(limit))
        read = [_read(row) for row in rows]
        return [entry for entry in read if agent_id is None or entry.agent_id == agent_id]

    async def verify(self, tenant_id: str) -> AuditVerdict:
        """Walks the chain and compares its end with what the database holds now.

        Also compares each connection's revision and envelope with the last write of it that the
        chain knows, which shows a row that was rolled back together with its state. A cut tail
        whose head was rewritten too shows only against a checkpoint kept elsewhere. Raises
        NotFound, and EnvelopeError for a shredded tenant. Ask within ``database.reading``: a
        writing transaction on PostgreSQL sees what others commit while it walks.
        """
        chain = _Chain(tenant_id=tenant_id, key=await self._journal.key(tenant_id))
        rows = await self._session.stream_scalars(
            select(AuditLog)
            .where(AuditLog.tenant_id == tenant_id)
            .order_by(AuditLog.seq)
            .execution_options(yield_per=500)
        )
        try:
            async for row in rows:
                wrong = chain.take(row)
                if wrong is not None:
                    return AuditVerdict(state=wrong, entries=chain.seq, seq=chain.seq + 1)
        finally:
            await rows.close()
        head = await self._one(select(AuditHead).where(AuditHead.tenant_id == tenant_id))
        if head is not None and (head.seq, head.mac) != (chain.seq, chain.mac):
            return AuditVerdict(state=AuditState.TRUNCATED, entries=chain.seq, seq=chain.seq + 1)
        target = await self._rolled_back(tenant_id, chain.written)
        if target is not None:
            return AuditVerdict(state=AuditState.ROLLED_BACK, entries=chain.seq, target=target)
        return AuditVerdict(state=AuditState.WHOLE, entries=chain.seq)

    async def _rolled_back(
        self, tenant_id: str, written: Mapping[str, tuple[int, str | None]]
    ) -> str | None:
        query = select(ConnectionStatus).where(ConnectionStatus.tenant_id == tenant_id)
        for status in await self._all(query):
            target = f"connection:{status.integration_id}"
            if written.get(target) != (status.revision, status.envelope_digest):
                return target
        return None


def _read(row: AuditLog) -> AuditEntry:
    entry = json.loads(row.entry)
    return AuditEntry(
        seq=row.seq,
        action=entry["action_type"],
        actor=entry["actor"],
        target=entry["target"],
        agent_id=entry["agent_id"],
        metadata=entry["metadata"],
        at=row.at,
    )
