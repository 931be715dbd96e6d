"""What happened: events for people who watch, and the audit log for those who must be sure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from aura_control.db.columns import Base

__all__ = ["AuditAnchor", "AuditHead", "AuditLog", "Event"]

_Serial = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER counts up by itself there


class Event(Base):
    """Something that its user sees; ``id`` is the Last-Event-ID of server-sent events."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "agent_id", "id"),
        Index(None, "user_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str]
    agent_id: Mapped[str | None]
    """None for what happens to a connection, which may be many agents'."""
    instance_id: Mapped[str | None]
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class AuditLog(Base):
    """One entry of a tenant's chain; triggers refuse to change it, and to delete what is not at or
    before the tenant's anchor."""

    __tablename__ = "audit_logs"
    __table_args__ = (UniqueConstraint("tenant_id", "seq"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    seq: Mapped[int] = mapped_column(BigInteger)
    """From 1, without gaps."""
    prev: Mapped[str] = mapped_column(String(64))
    mac: Mapped[str] = mapped_column(String(64))
    entry: Mapped[str]
    """Canonical JSON: action_type, actor, agent_id, target, metadata, at."""
    at: Mapped[datetime]


class AuditHead(Base):
    """The end of a tenant's chain; its row lock makes ``seq`` and event ids follow commits."""

    __tablename__ = "audit_heads"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    mac: Mapped[str] = mapped_column(String(64))
    checkpoint_seq: Mapped[int] = mapped_column(BigInteger)
    """The newest entry whose checkpoint is known to lie at its place; 0 before the first."""
    checkpoint_next: Mapped[int] = mapped_column(BigInteger)
    """The entry whose checkpoint was asked for last; equal to ``checkpoint_seq`` once it lies
    there. Recorded first, so that whoever asks again asks for the same."""
    checkpoint_at: Mapped[datetime | None]
    checkpoint_due_at: Mapped[datetime | None] = mapped_column(index=True)
    """When the next one should be made; NULL while there is no newer entry."""


class AuditAnchor(Base):
    """Where a tenant's chain begins, and how long entries are kept. One row from the first day."""

    __tablename__ = "audit_anchors"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    """The last entry that was deleted; 0 before the first."""
    mac: Mapped[str] = mapped_column(String(64))
    """Its MAC, which the first entry that is left names as ``prev``."""
    retention_days: Mapped[int]
    written: Mapped[str]
    """Canonical JSON: for each connection whose last write was deleted, revision and digest."""
    proof: Mapped[str] = mapped_column(String(64))
    """HMAC under the tenant's audit key over all of the above: see ``aura_control.db.chain``."""
    prune_due_at: Mapped[datetime] = mapped_column(index=True)
    """When to look for old entries again."""
