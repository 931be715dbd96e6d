"""Connections, and tokens that are still to be revoked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from aura_control.db.migrations.first.columns import DOCUMENT, TEXTS, TIME

__all__ = ["connections", "revocations"]


def connections() -> None:
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


def revocations() -> None:
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
