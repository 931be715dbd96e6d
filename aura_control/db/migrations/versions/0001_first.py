"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from aura_control.db.migrations.append_only import make_append_only

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TEXTS = sa.JSON().with_variant(postgresql.ARRAY(sa.Text()), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Creates them."""
    _people()
    _journal()
    _connections()
    _revocations()
    _agents()
    _limits()


def _people() -> None:
    """Tenants, users and API tokens."""
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kdf_salt", sa.LargeBinary(), nullable=True),
        sa.Column("audit_key", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleting_at", TIME, nullable=True),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.Column("receipt", DOCUMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
    )
    op.create_table(
        "tenant_keys",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("kid", sa.String(length=20), nullable=False),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_tenant_keys_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "kid", name="pk_tenant_keys"),
    )
    op.create_table(
        "retired_keys",
        sa.Column("kid", sa.String(length=20), nullable=False),
        sa.Column("retired_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("kid", name="pk_retired_keys"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_users_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_index("ix_users_tenant_id", "users", ["tenant_id"])
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_api_tokens_tenant_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_tokens_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_api_tokens_token_hash"),
    )
    op.create_index("ix_api_tokens_tenant_id_user_id", "api_tokens", ["tenant_id", "user_id"])


def _journal() -> None:
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


def _connections() -> None:
    """Connections and authorizations under way."""
    op.create_table(
        "integrations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("access_token", sa.Text(), nullable=True),
        sa.Column("refresh_token", sa.Text(), nullable=True),
        sa.Column("token_expiry", TIME, nullable=True),
        sa.Column("scopes", TEXTS, nullable=False),
        sa.Column("metadata", DOCUMENT, nullable=False),
        sa.Column("connected_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_integrations_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_integrations"),
        sa.UniqueConstraint("user_id", "provider", name="uq_integrations_user_id_provider"),
    )
    op.create_table(
        "connection_states",
        sa.Column("integration_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("config", DOCUMENT, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("refresh_started_at", TIME, nullable=True),
        sa.Column("refresh_generation", sa.BigInteger(), nullable=True),
        sa.Column("renew_at", TIME, nullable=True),
        sa.Column("envelope_digest", sa.String(length=64), nullable=True),
        sa.Column("receipt", DOCUMENT, nullable=True),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["integration_id"], ["integrations.id"], name="fk_connection_states_integration_id"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_connection_states_tenant_id"
        ),
        sa.PrimaryKeyConstraint("integration_id", name="pk_connection_states"),
    )
    op.create_index(
        "ix_connection_states_tenant_id_state", "connection_states", ["tenant_id", "state"]
    )
    op.create_index(
        "ix_connection_states_renew_at_integration_id",
        "connection_states",
        ["renew_at", "integration_id"],
    )
    op.create_table(
        "oauth_transactions",
        sa.Column("state_hash", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("verifier", sa.Text(), nullable=False),
        sa.Column("binding_hash", sa.String(length=64), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("config", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_oauth_transactions_tenant_id"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_oauth_transactions_user_id"),
        sa.PrimaryKeyConstraint("state_hash", name="pk_oauth_transactions"),
    )
    op.create_index("ix_oauth_transactions_expires_at", "oauth_transactions", ["expires_at"])


def _revocations() -> None:
    """Tokens of ended connections that are still to be revoked."""
    op.create_table(
        "pending_revocations",
        sa.Column("connection_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("config", DOCUMENT, nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("lines", DOCUMENT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("gives_up_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["integrations.id"], name="fk_pending_revocations_connection_id"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_pending_revocations_tenant_id"
        ),
        sa.PrimaryKeyConstraint("connection_id", "revision", name="pk_pending_revocations"),
    )
    op.create_index(
        "ix_pending_revocations_next_attempt_at", "pending_revocations", ["next_attempt_at"]
    )
    op.create_index("ix_pending_revocations_tenant_id", "pending_revocations", ["tenant_id"])


def _agents() -> None:
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


def _limits() -> None:
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
