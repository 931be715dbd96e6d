"""Events and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aura_control.db.migrations.append_only import make_append_only
from aura_control.db.migrations.first.columns import DOCUMENT, SERIAL, TIME

__all__ = ["journal"]


def journal() -> None:
    """Events and the audit log."""
    op.create_table(
        "events",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("instance_id", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_events_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_agent_id_id", "events", ["agent_id", "id"])
    op.create_index("ix_events_user_id_id", "events", ["user_id", "id"])
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.Column("checkpoint_seq", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_next", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_at", TIME, nullable=True),
        sa.Column("checkpoint_due_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audit_heads_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_audit_heads"),
    )
    op.create_index("ix_audit_heads_checkpoint_due_at", "audit_heads", ["checkpoint_due_at"])
    op.create_table(
        "audit_anchors",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.Column("retention_days", sa.Integer(), nullable=False),
        sa.Column("written", sa.Text(), nullable=False),
        sa.Column("proof", sa.String(length=64), nullable=False),
        sa.Column("prune_due_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audit_anchors_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_audit_anchors"),
    )
    op.create_index("ix_audit_anchors_prune_due_at", "audit_anchors", ["prune_due_at"])
    op.create_table(
        "audit_logs",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audit_logs_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_logs"),
        sa.UniqueConstraint("tenant_id", "seq", name="uq_audit_logs_tenant_id_seq"),
        sqlite_autoincrement=True,
    )
    make_append_only()
