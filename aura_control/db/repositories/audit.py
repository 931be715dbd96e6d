"""The audit log: append, read, verify."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import LargeBinary, RowMapping, cast, func, literal, select
from sqlalchemy.sql.elements import ColumnElement

from aura_control.db.chain import Anchor, AuditState, Chain, Link
from aura_control.db.connection import SealedTokens, envelope_digest
from aura_control.db.models import (
    AuditAnchor,
    AuditHead,
    AuditLog,
    ConnectionStatus,
    Integration,
    Tenant,
)
from aura_control.db.repositories.base import Repository
from aura_control.db.verdict import AuditVerdict, Finding, compare, compare_attested
from aura_core.checkpoints import Checkpoint
from aura_core.errors import EnvelopeError

__all__ = ["Audit", "AuditEntry", "AuditState", "AuditVerdict"]

_PAGE = 1000


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

    async def head(self, tenant_id: str) -> AuditHead | None:
        """The end of the chain as the database has it."""
        return await self._one(select(AuditHead).where(AuditHead.tenant_id == tenant_id))

    async def waiting_since(self, tenant_id: str, *, after: int) -> datetime | None:
        """When the first entry after ``after`` was written, None where there is none."""
        query = select(func.min(AuditLog.seq)).where(
            AuditLog.tenant_id == tenant_id, AuditLog.seq > after
        )
        first = query.scalar_subquery()
        return await self._one(
            select(AuditLog.at).where(AuditLog.tenant_id == tenant_id, AuditLog.seq == first)
        )

    async def anchor(self, tenant_id: str) -> Anchor | None:
        """Where the chain begins, unchecked."""
        table = AuditAnchor
        row = await self._one(select(table).where(table.tenant_id == tenant_id))
        return None if row is None else anchor_of(row)

    async def first_from(self, tenant_id: str, moment: datetime) -> int | None:
        """The ``seq`` of the chain's first entry of that time or later. A later entry may carry an
        earlier time: a time is when a transaction began, the order that in which they ended."""
        return await self._one(
            select(func.min(AuditLog.seq)).where(
                AuditLog.tenant_id == tenant_id, AuditLog.at >= moment
            )
        )

    async def key(self, tenant_id: str) -> bytes | None:
        """The key of the tenant's chain, None once the tenant is shredded. Raises NotFound, and
        EnvelopeError where there is a key that does not open."""
        try:
            return await self._journal.key(tenant_id)
        except EnvelopeError:
            salt = select(Tenant.kdf_salt).where(Tenant.id == tenant_id)
            if await self._one(salt) is not None:
                raise
            return None

    async def links(
        self, tenant_id: str, *, after: int = 0, until: int | None = None
    ) -> AsyncGenerator[Sequence[Link], None]:
        """The entries as they are stored, in pages and in order, ``after`` and up to ``until``
        (both ``seq``). Ask within ``database.reading``: a writing transaction on PostgreSQL sees
        what others commit while it reads."""
        sqlite = self._session.get_bind().dialect.name == "sqlite"
        columns = _SQLITE_COLUMNS if sqlite else _POSTGRES_COLUMNS
        # Also what is at or below the anchor, where nothing should be, if a walk begins there.
        query = select(*columns).where(AuditLog.tenant_id == tenant_id)
        if after:
            query = query.where(AuditLog.seq > after)
        if until is not None:
            query = query.where(AuditLog.seq <= until)
        connection = await self._session.connection()
        rows = await connection.stream(
            query.order_by(AuditLog.seq), execution_options={"yield_per": _PAGE}
        )
        try:
            async for page in rows.partitions():
                yield (
                    [Link(*row) for row in page]
                    if sqlite
                    else [Link(row[0], *(text.encode() for text in row[1:])) for row in page]
                )
        finally:
            await rows.close()

    async def verify(
        self,
        tenant_id: str,
        *,
        attested: Mapping[int, Checkpoint] | None = None,
        progress: Callable[[int], None] = lambda entries: None,
    ) -> AuditVerdict:
        """Walks the chain from its anchor and compares it with all that should agree with it.

        That is: the chain's head; ``attested``, the checkpoints by ``seq`` whose signatures were
        verified; and each connection's revision and stored tokens, which the chain knows the last
        write of, so that a row that was put back as a whole shows. ``progress`` is called with the
        number of entries so far. Of a shredded tenant only order, links and checkpoints can be
        verified. Raises NotFound. Ask within ``database.reading``.
        """
        try:
            key = await self.key(tenant_id)
        except EnvelopeError as error:
            return AuditVerdict.unreadable(tenant_id, error.message)
        anchor = await self.anchor(tenant_id)
        if anchor is None or (key is not None and not anchor.proves(key)):
            return AuditVerdict.baseless(tenant_id)
        attested = attested or {}
        chain, macs = Chain.after(anchor, key), dict[int, str]()
        wrong = await self._walk(chain, attested, macs, progress)
        findings = [] if wrong is None else [wrong]
        if wrong is None:
            head = await self.head(tenant_id)
            findings += compare(chain, anchor, None if head is None else (head.seq, head.mac))
        ended = chain.seq if wrong is None else None
        findings += compare_attested(chain, anchor, attested, macs, ended=ended)
        if key is not None and not findings:  # a chain in trouble is no measure for other rows
            findings += await self._rolled_back(chain)
        return AuditVerdict(
            tenant_id=tenant_id,
            entries=chain.seq - anchor.seq,
            first=anchor.seq + 1,
            closed=key is None,
            findings=tuple(findings),
        )

    async def _walk(
        self,
        chain: Chain,
        attested: Mapping[int, Checkpoint],
        macs: dict[int, str],
        progress: Callable[[int], None],
    ) -> Finding | None:
        take = chain.take
        async with aclosing(self.links(chain.tenant_id)) as pages:
            async for page in pages:
                for link in page:
                    wrong = take(link)
                    if wrong is not None:
                        return Finding(state=wrong, seq=chain.seq + 1, detail=_WORDS[wrong])
                    if link.seq in attested:
                        macs[link.seq] = link.mac.decode()
                progress(len(page))
        return None

    async def _rolled_back(self, chain: Chain) -> list[Finding]:
        """Connections whose rows are not those that the chain saw written last."""
        query = (
            select(
                ConnectionStatus.integration_id,
                ConnectionStatus.revision,
                ConnectionStatus.envelope_digest,
                Integration.access_token,
                Integration.refresh_token,
            )
            .outerjoin(Integration, Integration.id == ConnectionStatus.integration_id)
            .where(ConnectionStatus.tenant_id == chain.tenant_id)
        )
        known = dict(chain.written)
        found = []
        rows = (await self._session.execute(query)).mappings()
        for row in rows:
            target = f"connection:{row['integration_id']}"
            if known.pop(target, None) != _as_stored(row):
                found.append(target)
        return [
            Finding(
                state=AuditState.REWRITTEN,
                target=target,
                detail=f"{target} is not as it was written last: it was put back, or deleted",
            )
            for target in (*found, *known)
        ]


_WORDS = {
    AuditState.GAP: "an entry is missing, out of order, or not linked to the one before",
    AuditState.ALTERED: "the entry is not what was written",
}


def _text(column: Any) -> ColumnElement[bytes]:
    return cast(func.coalesce(column, ""), LargeBinary)


# SQLite stores whatever it is given, of any type: as bytes it can be read, whatever it is. Both
# databases spell times as the entries do, which is much faster than by way of Python's own type.
_SQLITE_COLUMNS = (
    AuditLog.seq,
    *(_text(column) for column in (AuditLog.prev, AuditLog.mac, AuditLog.entry)),
    _text(
        func.replace(AuditLog.at, " ", "T", type_=LargeBinary).concat(literal("+00:00")),
    ),
)
_POSTGRES_COLUMNS = (
    AuditLog.seq,
    AuditLog.prev,
    AuditLog.mac,
    AuditLog.entry,
    func.to_char(func.timezone("UTC", AuditLog.at), 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
)


def anchor_of(row: AuditAnchor) -> Anchor:
    """The value of a row."""
    return Anchor(
        tenant_id=row.tenant_id,
        seq=row.seq,
        mac=row.mac,
        retention_days=row.retention_days,
        written=row.written,
        proof=row.proof,
    )


def _as_stored(row: RowMapping) -> tuple[int, str | None] | None:
    tokens = SealedTokens(access_token=row["access_token"], refresh_token=row["refresh_token"])
    if row["envelope_digest"] != envelope_digest(tokens, row["revision"]):
        return None
    return row["revision"], row["envelope_digest"]


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
