"""Agents, the machines that run them, and what those machines should hold."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from aura_control.db.columns import Base, names

__all__ = [
    "NEXT_STATES",
    "Agent",
    "AgentIntegration",
    "Delivery",
    "DeliveryOp",
    "Instance",
    "InstanceState",
]


class InstanceState(StrEnum):
    """Where an instance is in its life."""

    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    ENROLLING = "enrolling"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DEGRADED = "degraded"
    FAILED = "failed"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


_S = InstanceState

NEXT_STATES: dict[InstanceState, frozenset[InstanceState]] = {
    _S.REQUESTED: frozenset({_S.PROVISIONING, _S.FAILED, _S.DESTROYING}),
    _S.PROVISIONING: frozenset({_S.ENROLLING, _S.FAILED, _S.DESTROYING}),
    _S.ENROLLING: frozenset({_S.RUNNING, _S.DEGRADED, _S.FAILED, _S.DESTROYING}),
    _S.RUNNING: frozenset({_S.SUSPENDED, _S.DEGRADED, _S.FAILED, _S.DESTROYING}),
    _S.SUSPENDED: frozenset({_S.RUNNING, _S.DEGRADED, _S.FAILED, _S.DESTROYING}),
    _S.DEGRADED: frozenset({_S.DEGRADED, _S.RUNNING, _S.SUSPENDED, _S.FAILED, _S.DESTROYING}),
    _S.FAILED: frozenset({_S.PROVISIONING, _S.RUNNING, _S.DESTROYING}),
    _S.DESTROYING: frozenset({_S.DESTROYED, _S.FAILED}),
    _S.DESTROYED: frozenset(),
}
"""The transitions that exist; a repository refuses every other one."""


class DeliveryOp(StrEnum):
    """What a machine should do with a subject."""

    PUT = "put"
    DELETE = "delete"


class Agent(Base):
    """A tenant's agent. A deleted one keeps its row for the audit log to point at."""

    __tablename__ = "agents"
    __table_args__ = (Index(None, "tenant_id", "user_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    compute: Mapped[str]
    runtime: Mapped[str]
    persona: Mapped[dict[str, Any]]
    permissions: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class AgentIntegration(Base):
    """An agent may use its user's connection to this provider."""

    __tablename__ = "agent_integrations"

    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    enabled_at: Mapped[datetime]


class Instance(Base):
    """One machine that runs an agent."""

    __tablename__ = "instances"
    __table_args__ = (Index(None, "tenant_id", "agent_id"), Index(None, "state", "updated_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    agent_id: Mapped[str] = mapped_column(ForeignKey("agents.id"))
    compute: Mapped[str]
    state: Mapped[InstanceState] = mapped_column(names(InstanceState))
    state_reason: Mapped[str | None]
    machine_name: Mapped[str] = mapped_column(unique=True)
    """Derived from the id, so that a machine whose creation was not recorded can be found."""
    external_id: Mapped[str | None]
    push_url: Mapped[str | None]
    join_token_hash: Mapped[str | None] = mapped_column(String(64))
    join_expires_at: Mapped[datetime | None]
    join_used_at: Mapped[datetime | None]
    enc_public: Mapped[bytes | None] = mapped_column(LargeBinary)
    sig_public: Mapped[bytes | None] = mapped_column(LargeBinary)
    recipient_kid: Mapped[str | None] = mapped_column(String(16))
    gateway_token: Mapped[str | None]
    """Sealed."""
    quarantined_reason: Mapped[str | None]
    last_heartbeat_at: Mapped[datetime | None]
    heartbeat_issued_at: Mapped[int] = mapped_column(BigInteger)
    """The newest heartbeat's own time in milliseconds: an older one is a replay."""
    health: Mapped[dict[str, Any]]
    user_data_size: Mapped[int | None] = mapped_column(Integer)
    """Bytes."""
    left_to_daemon: Mapped[list[str]]
    """Skills that did not fit in the user-data."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Delivery(Base):
    """The outbox: what one machine should hold of one subject, and what it said it holds."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "next_attempt_at"), Index(None, "tenant_id"))

    instance_id: Mapped[str] = mapped_column(ForeignKey("instances.id"), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    """A connection's id, ``policy`` or ``skill:<dir>``."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    op: Mapped[DeliveryOp] = mapped_column(names(DeliveryOp))
    desired_revision: Mapped[int] = mapped_column(BigInteger)
    message: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The sealed message, sent again as the same bytes: an equal revision is an equal digest."""
    digest: Mapped[str | None] = mapped_column(String(64))
    acked_revision: Mapped[int | None] = mapped_column(BigInteger)
    acked_digest: Mapped[str | None] = mapped_column(String(64))
    acked_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[datetime]
    last_error: Mapped[str | None]
    source_revision: Mapped[int | None] = mapped_column(BigInteger)
    """The connection's revision that the message was made from."""
