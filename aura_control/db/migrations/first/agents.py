"""Agents, their machines, and their limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aura_control.db.migrations.first.columns import DOCUMENT, TEXTS, TIME

__all__ = ["agents", "limits"]


def agents() -> None:
    """Agents, their machines, and the outbox."""
    op.create_table(
        "agents",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("compute", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("persona", DOCUMENT, nullable=False),
        sa.Column("permissions", DOCUMENT, nullable=False),
        sa.Column("config", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_agents_tenant_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_agents_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
    )
    op.create_index("ix_agents_tenant_id_user_id", "agents", ["tenant_id", "user_id"])
    op.create_table(
        "agent_integrations",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("enabled_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_agent_integrations_agent_id"),
        sa.PrimaryKeyConstraint("agent_id", "provider", name="pk_agent_integrations"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("compute", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("machine_name", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("push_url", sa.Text(), nullable=True),
        sa.Column("join_token_hash", sa.String(length=64), nullable=True),
        sa.Column("join_expires_at", TIME, nullable=True),
        sa.Column("join_used_at", TIME, nullable=True),
        sa.Column("enc_public", sa.LargeBinary(), nullable=True),
        sa.Column("sig_public", sa.LargeBinary(), nullable=True),
        sa.Column("recipient_kid", sa.String(length=16), nullable=True),
        sa.Column("gateway_token", sa.Text(), nullable=True),
        sa.Column("quarantined_reason", sa.Text(), nullable=True),
        sa.Column("last_heartbeat_at", TIME, nullable=True),
        sa.Column("heartbeat_issued_at", sa.BigInteger(), nullable=False),
        sa.Column("health", DOCUMENT, nullable=False),
        sa.Column("user_data_size", sa.Integer(), nullable=True),
        sa.Column("left_to_daemon", TEXTS, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_instances_agent_id"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_instances_tenant_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_instances_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("machine_name", name="uq_instances_machine_name"),
    )
    op.create_index("ix_instances_state_updated_at", "instances", ["state", "updated_at"])
    op.create_index("ix_instances_tenant_id_agent_id", "instances", ["tenant_id", "agent_id"])
    op.create_table(
        "deliveries",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("op", sa.String(20), nullable=False),
        sa.Column("desired_revision", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("acked_revision", sa.BigInteger(), nullable=True),
        sa.Column("acked_digest", sa.String(length=64), nullable=True),
        sa.Column("acked_at", TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("source_revision", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_deliveries_instance_id"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_deliveries_tenant_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_deliveries_user_id"),
        sa.PrimaryKeyConstraint("instance_id", "subject", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_next_attempt_at", "deliveries", ["next_attempt_at"])
    op.create_index("ix_deliveries_tenant_id", "deliveries", ["tenant_id"])


def limits() -> None:
    """What agents used of their limits, and how far machines' refusals were taken."""
    op.create_table(
        "agent_usage",
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_agent_usage_agent_id"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_agent_usage_tenant_id"),
        sa.PrimaryKeyConstraint("agent_id", "source", "what", "minute", name="pk_agent_usage"),
    )
    op.create_table(
        "refusal_marks",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_refusal_marks_instance_id"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_refusal_marks_tenant_id"),
        sa.PrimaryKeyConstraint("instance_id", name="pk_refusal_marks"),
    )
