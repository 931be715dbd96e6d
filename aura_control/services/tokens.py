"""API tokens: how one is made and recognised."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime

from pydantic import SecretStr

from aura_control.db.transaction import Transaction

__all__ = ["issue_token", "token_hash"]


def token_hash(text: str) -> str:
    """What the database knows of a token: SHA-256 in hexadecimal. A token has 256 random bits, so
    there is nothing to guess that a slow hash would protect."""
    return hashlib.sha256(text.encode()).hexdigest()


async def issue_token(
    tx: Transaction,
    *,
    tenant_id: str,
    user_id: str,
    name: str,
    actor: str,
    expires_at: datetime | None = None,
) -> SecretStr:
    """Makes a token for a user; it is shown now and never again. Raises NotFound."""
    text = f"aura_{secrets.token_urlsafe(32)}"
    await tx.tokens.issue(
        tenant_id=tenant_id,
        user_id=user_id,
        name=name,
        token_hash=token_hash(text),
        expires_at=expires_at,
        actor=actor,
    )
    return SecretStr(text)
