"""What a transaction leaves behind for its readers: audit entries and events.

Entries are collected while the transaction works and written as its last act. The head of a
tenant's chain is the one row that all of the tenant's transactions want: taking its lock last keeps
it short, and since nothing is locked after it, no two transactions can wait for each other there.
Because the lock is held until the commit, both ``seq`` and the ids of events follow the order of
commits: whoever reads on from the last id that it has seen misses nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from aura_control.db.models import AuditHead, AuditLog, Event, Tenant
from aura_control.db.statements import insert_or
from aura_core.crypto import lp
from aura_core.errors import EnvelopeError, NotFound

__all__ = ["GENESIS", "AuditKey", "Journal", "entry_mac"]

AuditKey = Callable[[str, bytes], bytes]
"""(tenant id, the tenant's KDF salt) -> the key of the tenant's audit chain."""

GENESIS = "0" * 64
"""``prev`` of a chain's first entry."""


class _Entry(NamedTuple):
    tenant_id: str
    text: str
    at: datetime


def entry_mac(key: bytes, *, tenant_id: str, seq: int, prev: str, entry: str) -> str:
    """HMAC-SHA256 (hexadecimal) of one entry, each field behind its length."""
    message = lp("audit/v1", tenant_id, seq, prev, entry)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


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
            "at": self._now.isoformat(timespec="microseconds"),
        }
        text = json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        self._entries.append(_Entry(tenant_id, text, self._now))

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

    async def key(self, tenant_id: str) -> bytes:
        """The key of the tenant's chain."""
        if tenant_id not in self._keys:
            row = (
                await self._session.execute(
                    select(Tenant.id, Tenant.kdf_salt).where(Tenant.id == tenant_id)
                )
            ).one_or_none()
            if row is None:
                raise NotFound("There is no such tenant.")
            if row.kdf_salt is None:
                raise EnvelopeError("The tenant's keys were destroyed: its audit log is closed.")
            self._keys[tenant_id] = self._audit_key(tenant_id, row.kdf_salt)
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

    async def _lock_head(self, tenant_id: str) -> tuple[int, str]:
        await self._session.execute(
            insert_or(self._session, AuditHead)
            .values(tenant_id=tenant_id, seq=0, mac=GENESIS)
            .on_conflict_do_nothing()
        )
        row = (
            await self._session.execute(
                select(AuditHead.seq, AuditHead.mac)
                .where(AuditHead.tenant_id == tenant_id)
                .with_for_update()
            )
        ).one()
        return row.seq, row.mac

    async def _extend(self, tenant_id: str, head: tuple[int, str], entries: list[_Entry]) -> None:
        key = await self.key(tenant_id)
        seq, mac = head
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
        await self._session.execute(insert(AuditLog), rows)
        await self._session.execute(
            update(AuditHead).where(AuditHead.tenant_id == tenant_id).values(seq=seq, mac=mac)
        )
