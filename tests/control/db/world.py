"""What the tests of the database work with: a clock, two tenants, and connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aura_control.db.connection import Connection, Grant, SealedTokens
from aura_control.db.engine import Database


@dataclass
class Clock:
    """The time that a test wants it to be."""

    now: datetime = field(default_factory=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass(frozen=True, kw_only=True)
class World:
    """Two tenants with a user each; the second one is there to be kept out."""

    tenant_id: str = "t1"
    user_id: str = "u1"
    other_tenant_id: str = "t2"
    other_user_id: str = "u2"


EXPIRY = datetime(2026, 3, 1, 13, tzinfo=UTC)


def grant(access: str = "access-1", refresh: str | None = "refresh-1") -> Grant:
    return Grant(
        tokens=SealedTokens(access_token=access, refresh_token=refresh),
        token_expiry=EXPIRY,
        scopes=("mail.read", "mail.send"),
        auth_method="oauth2",
        account_id="ada@example.org",
        metadata={"email": "ada@example.org"},
        config={"subdomain": "ada"},
    )


async def connect(
    database: Database,
    granted: Grant | None = None,
    *,
    provider: str = "google",
    tenant_id: str = "t1",
    user_id: str = "u1",
) -> Connection:
    async with database.transaction() as tx:
        slot = await tx.integrations.reserve(
            tenant_id=tenant_id, user_id=user_id, provider=provider
        )
        return await tx.integrations.upsert_connected(
            tenant_id=tenant_id,
            user_id=user_id,
            provider=provider,
            slot=slot,
            grant=granted or grant(),
            actor=f"user:{user_id}",
        )


async def current(database: Database, connection: Connection) -> Connection:
    async with database.reading() as tx:
        return await tx.integrations.by_id(
            tenant_id=connection.tenant_id, connection_id=connection.id
        )
