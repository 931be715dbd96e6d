"""Who: tenants, their keys, users and API tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from aura_control.db.columns import Base

__all__ = ["ApiToken", "RetiredKey", "Tenant", "TenantKey", "User"]


class Tenant(Base):
    """A customer."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    kdf_salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """32 random bytes that all of the tenant's keys are derived with; NULL once shredded."""
    audit_key: Mapped[str | None]
    """32 random bytes that the key of its audit chain comes from, sealed; set with the row."""
    created_at: Mapped[datetime]
    deleting_at: Mapped[datetime | None]
    """When the operator asked to delete the tenant: from then on nobody signs in to it."""
    deleted_at: Mapped[datetime | None]
    receipt: Mapped[dict[str, Any] | None]
    """What deleting the tenant revoked, destroyed and shredded, and when."""


class TenantKey(Base):
    """What a tenant's key under one master key commits to.

    AES-GCM does not commit to its key: the commitment that is recorded here is compared before
    anything is decrypted.
    """

    __tablename__ = "tenant_keys"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    kid: Mapped[str] = mapped_column(String(20), primary_key=True)
    commitment: Mapped[bytes] = mapped_column(LargeBinary)
    uses: Mapped[int] = mapped_column(BigInteger)
    """Seals under this key that processes have reserved: at least as many as were made."""


class RetiredKey(Base):
    """A master key that nothing may be sealed under any more.

    It is committed before the key's material is destroyed, and looked up in each transaction that
    seals, so that a process with an old keyring cannot seal under a key that is gone.
    """

    __tablename__ = "retired_keys"

    kid: Mapped[str] = mapped_column(String(20), primary_key=True)
    retired_at: Mapped[datetime]


class User(Base):
    """A person of one tenant."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]


class ApiToken(Base):
    """A bearer token of a user; only its SHA-256 (hexadecimal) is kept."""

    __tablename__ = "api_tokens"
    __table_args__ = (Index(None, "tenant_id", "user_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
