"""Connections: the table ``integrations``, the state beside it, and authorizations under way."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from aura_control.db.columns import Base, names

__all__ = [
    "ConnectionState",
    "ConnectionStatus",
    "Integration",
    "OAuthTransaction",
    "PendingRevocation",
]


class ConnectionState(StrEnum):
    """How a connection is."""

    CONNECTED = "connected"
    EXPIRING = "expiring"
    REAUTH_REQUIRED = "reauth_required"
    UNCERTAIN = "uncertain"
    DISCONNECTED = "disconnected"


class Integration(Base):
    """One user's link to one provider account.

    The columns are fixed: state beyond them is in :class:`ConnectionStatus`. Both tokens are
    sealed (``TenantKeys.seal``) under the connection's id and its revision.
    """

    __tablename__ = "integrations"
    __table_args__ = (UniqueConstraint("user_id", "provider"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    provider: Mapped[str]
    access_token: Mapped[str | None]
    refresh_token: Mapped[str | None]
    token_expiry: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    connected_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ConnectionStatus(Base):
    """What is known of a connection beside its row in ``integrations``: always exactly one."""

    __tablename__ = "connection_states"
    __table_args__ = (
        Index(None, "tenant_id", "state"),
        Index(None, "renew_at", "integration_id"),
    )

    integration_id: Mapped[str] = mapped_column(ForeignKey("integrations.id"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    state: Mapped[ConnectionState] = mapped_column(names(ConnectionState))
    reason: Mapped[str | None]
    """Why it is not ``connected``, for a person."""
    auth_method: Mapped[str]
    account_id: Mapped[str | None]
    """The account's identity at the provider."""
    config: Mapped[dict[str, Any]]
    """Values of the manifest's templated variables, such as a subdomain."""
    revision: Mapped[int] = mapped_column(BigInteger)
    """Orders the credentials: ``max(previous + 1, milliseconds now)`` at each change."""
    refresh_started_at: Mapped[datetime | None]
    refresh_generation: Mapped[int | None] = mapped_column(BigInteger)
    """The revision whose refresh token is being spent: set means that the intent is open."""
    renew_at: Mapped[datetime | None]
    """When the sweep should look at it: before the token ends, at once while an intent is open,
    later after a failure; None where nothing is to be done."""
    envelope_digest: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 (hexadecimal) over the sealed tokens and the revision; compared at each read."""
    receipt: Mapped[dict[str, Any] | None]
    """What disconnecting did, and what it could not do."""
    updated_at: Mapped[datetime]


class OAuthTransaction(Base):
    """An authorization under way, found by the SHA-256 (hexadecimal) of its ``state``."""

    __tablename__ = "oauth_transactions"

    state_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    provider: Mapped[str]
    auth_method: Mapped[str]
    agent_id: Mapped[str | None]
    verifier: Mapped[str]
    """The PKCE code verifier (RFC 7636 §4.1), sealed."""
    binding_hash: Mapped[str] = mapped_column(String(64))
    """SHA-256 (hexadecimal) of the browser's transaction cookie."""
    redirect_uri: Mapped[str]
    config: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]


class PendingRevocation(Base):
    """Tokens of a connection that ended, kept for one purpose: to be revoked at the provider.

    Nothing but the revoker opens them. A row goes when the provider has answered for each token,
    or when the attempts are given up; the receipt keeps what was said.
    """

    __tablename__ = "pending_revocations"
    __table_args__ = (Index(None, "next_attempt_at"), Index(None, "tenant_id"))

    connection_id: Mapped[str] = mapped_column(ForeignKey("integrations.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    auth_method: Mapped[str]
    account_id: Mapped[str | None]
    config: Mapped[dict[str, Any]]
    sealed: Mapped[str]
    """A JSON object of names and secrets, sealed as the field ``revocation`` of the connection
    under this revision."""
    lines: Mapped[dict[str, Any]]
    """What the provider said so far of each token: the receipt's lines."""
    attempts: Mapped[int] = mapped_column(Integer)
    next_attempt_at: Mapped[datetime]
    gives_up_at: Mapped[datetime]
    created_at: Mapped[datetime]
