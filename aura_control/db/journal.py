"""What a transaction leaves behind for its readers: audit entries and events.

Entries are collected while the transaction works and written as its last act. The head of a
tenant's chain is the one row that all of the tenant's transactions want: taking its lock last keeps
it short, and since nothing is locked after it, no two transactions can wait for each other there.
Because the lock is held until the commit, both ``seq`` and the ids of events follow the order of
commits: whoever reads on from the last id that it has seen misses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from aura_control.db.chain import GENESIS, canonical_json, entry_mac, iso
from aura_control.db.models import AuditHead, AuditLog, Event, Tenant, TenantKey
from aura_control.db.statements import insert_or
from aura_core.errors import EnvelopeError, NotFound

__all__ = [
    "CHECKPOINT_AFTER",
    "CHECKPOINT_EVERY",
    "AuditKey",
    "Journal",
    "NewAuditKey",
]

CHECKPOINT_EVERY = 100
"""Entries after which a checkpoint is due at once."""

CHECKPOINT_AFTER = timedelta(minutes=5)
"""Time after which one is due for whatever is new."""


@dataclass(frozen=True, kw_only=True)
class NewAuditKey:
    """A new tenant's sealed audit key, and the commitment of the key that sealed it."""

    sealed: str
    kid: str
    commitment: bytes


class AuditKey(Protocol):
    """Makes and opens the keys of audit chains: the vault's part."""

    def make(self, tenant_id: str, salt: bytes) -> NewAuditKey:
        """A new random key for a new tenant, sealed under its own keys."""
        ...

    def open(
        self, tenant_id: str, salt: bytes, *, sealed: str, commitments: Mapping[str, bytes]
    ) -> bytes:
        """The key of the tenant's chain, 32 bytes. Raises EnvelopeError."""
        ...


# Every transaction that changes anything runs these: they are put together once, and go past the
# object mapper, which has nothing to do with them.
_KEY = (
    select(Tenant.kdf_salt, Tenant.audit_key, TenantKey.kid, TenantKey.commitment)
    .outerjoin(TenantKey, TenantKey.tenant_id == Tenant.id)
    .where(Tenant.id == bindparam("tenant"))
)
_HEAD = (
    select(AuditHead.seq, AuditHead.mac, AuditHead.checkpoint_next, AuditHead.checkpoint_due_at)
    .where(AuditHead.tenant_id == bindparam("tenant"))
    .with_for_update()
)
_APPEND = insert(AuditLog)
_MOVE = (
    update(AuditHead)
    .where(AuditHead.tenant_id == bindparam("tenant"))
    .values(seq=bindparam("to_seq"), mac=bindparam("to_mac"), checkpoint_due_at=bindparam("due_at"))
)


class _Head(NamedTuple):
    seq: int
    mac: str
    checkpoint_next: int
    checkpoint_due_at: datetime | None


class _Entry(NamedTuple):
    tenant_id: str
    text: str
    at: datetime


class Journal:
    """The audit entries and events of one transaction."""

    def __init__(self, session: AsyncSession, *, now: datetime, audit_key: AuditKey) -> None:
        self._session = session
        self._now = now
        self._audit_key = audit_key
        self._keys: dict[str, bytes] = {}
        self._entries: list[_Entry] = []
        self._events: list[dict[str, Any]] = []
        self.watched: set[str] = set()
        """Users and agents (ids) that got events."""

    @property
    def pending(self) -> bool:
        """Whether something waits for :meth:`flush`."""
        return bool(self._entries or self._events)

    async def audit(
        self,
        tenant_id: str,
        *,
        action: str,
        actor: str,
        target: str,
        agent_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an entry to the tenant's chain; ``metadata`` is JSON and never holds a secret.

        Raises NotFound for an unknown tenant, EnvelopeError for a shredded one.
        """
        await self.key(tenant_id)  # now: shredding takes the salt later in the same transaction
        document = {
            "action_type": action,
            "actor": actor,
            "agent_id": agent_id,
            "target": target,
            "metadata": dict(metadata or {}),
            "at": iso(self._now),
        }
        self._entries.append(_Entry(tenant_id, canonical_json(document), self._now))

    def publish(
        self,
        tenant_id: str,
        *,
        user_id: str,
        kind: str,
        data: Mapping[str, Any],
        agent_id: str | None = None,
        instance_id: str | None = None,
    ) -> None:
        """Adds an event for those who follow the user, or the agent if it is about one."""
        self.watched |= {user_id} if agent_id is None else {user_id, agent_id}
        self._events.append(
            {
                "tenant_id": tenant_id,
                "user_id": user_id,
                "agent_id": agent_id,
                "instance_id": instance_id,
                "kind": kind,
                "data": dict(data),
                "at": self._now,
            }
        )

    def new_key(self, tenant_id: str, salt: bytes) -> NewAuditKey:
        """A key for the chain of a tenant that is being made."""
        return self._audit_key.make(tenant_id, salt)

    async def key(self, tenant_id: str) -> bytes:
        """The key of the tenant's chain. Raises NotFound, and EnvelopeError for a shredded tenant
        or a key that does not open."""
        if tenant_id not in self._keys:
            connection = await self._session.connection()
            rows = (await connection.execute(_KEY, {"tenant": tenant_id})).all()
            if not rows:
                raise NotFound("There is no such tenant.")
            salt, sealed = rows[0].kdf_salt, rows[0].audit_key
            if salt is None or sealed is None:
                raise EnvelopeError("The tenant's keys were destroyed: its audit log is closed.")
            self._keys[tenant_id] = self._audit_key.open(
                tenant_id,
                salt,
                sealed=sealed,
                commitments={row.kid: row.commitment for row in rows if row.kid is not None},
            )
        return self._keys[tenant_id]

    async def flush(self) -> None:
        """Writes what was collected, tenant by tenant in one order for everybody."""
        entries, events = self._entries, self._events
        self._entries, self._events = [], []
        tenants = {entry.tenant_id for entry in entries} | {event["tenant_id"] for event in events}
        for tenant_id in sorted(tenants):
            head = await self._lock_head(tenant_id)
            mine = [entry for entry in entries if entry.tenant_id == tenant_id]
            if mine:
                await self._extend(tenant_id, head, mine)
        if events:
            await self._session.execute(insert(Event), events)

    async def _lock_head(self, tenant_id: str) -> _Head:
        connection, whose = await self._session.connection(), {"tenant": tenant_id}
        row = (await connection.execute(_HEAD, whose)).one_or_none()
        if row is None:  # the tenant's first entry
            await self._session.execute(
                insert_or(self._session, AuditHead)
                .values(
                    tenant_id=tenant_id, seq=0, mac=GENESIS, checkpoint_seq=0, checkpoint_next=0
                )
                .on_conflict_do_nothing()
            )
            row = (await connection.execute(_HEAD, whose)).one()
        return _Head(*row)

    async def _extend(self, tenant_id: str, head: _Head, entries: list[_Entry]) -> None:
        key = await self.key(tenant_id)
        seq, mac = head.seq, head.mac
        rows = []
        for entry in entries:
            seq, prev = seq + 1, mac
            mac = entry_mac(key, tenant_id=tenant_id, seq=seq, prev=prev, entry=entry.text)
            rows.append(
                {
                    "tenant_id": tenant_id,
                    "seq": seq,
                    "prev": prev,
                    "mac": mac,
                    "entry": entry.text,
                    "at": entry.at,
                }
            )
        connection = await self._session.connection()
        await connection.execute(_APPEND, rows)
        due_at = self._now + CHECKPOINT_AFTER
        if head.checkpoint_due_at is not None:  # one put off by hand is due again from here on
            due_at = min(due_at, head.checkpoint_due_at)
        if seq - head.checkpoint_next >= CHECKPOINT_EVERY:
            due_at = min(due_at, self._now)
        moved = {"tenant": tenant_id, "to_seq": seq, "to_mac": mac, "due_at": due_at}
        await connection.execute(_MOVE, moved)
