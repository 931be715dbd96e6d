"""The tables, by theme. Rows are read-only outside the repositories."""

from __future__ import annotations

from aura_control.db.models.agents import (
    NEXT_STATES,
    Agent,
    AgentIntegration,
    Delivery,
    DeliveryOp,
    Instance,
    InstanceState,
)
from aura_control.db.models.connections import (
    ConnectionState,
    ConnectionStatus,
    Integration,
    OAuthTransaction,
    PendingRevocation,
)
from aura_control.db.models.journal import AuditAnchor, AuditHead, AuditLog, Event
from aura_control.db.models.limits import AgentUsage, RefusalMark
from aura_control.db.models.tenants import ApiToken, RetiredKey, Tenant, TenantKey, User

__all__ = [
    "NEXT_STATES",
    "Agent",
    "AgentIntegration",
    "AgentUsage",
    "ApiToken",
    "AuditAnchor",
    "AuditHead",
    "AuditLog",
    "ConnectionState",
    "ConnectionStatus",
    "Delivery",
    "DeliveryOp",
    "Event",
    "Instance",
    "InstanceState",
    "Integration",
    "OAuthTransaction",
    "PendingRevocation",
    "RefusalMark",
    "RetiredKey",
    "Tenant",
    "TenantKey",
    "User",
]
