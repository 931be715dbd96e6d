"""A connection as the repositories hand it out and take it in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aura_control.db.models import ConnectionState, ConnectionStatus, Integration
from aura_core.crypto import lp
from aura_core.errors import EnvelopeError

__all__ = ["Connection", "Grant", "SealedTokens", "Slot", "envelope_digest"]


@dataclass(frozen=True, kw_only=True)
class SealedTokens:
    """Both tokens as they are stored: sealed, each as JSON text, or absent."""

    access_token: str | None
    refresh_token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What new tokens are sealed under, from ``integrations.reserve``."""

    connection_id: str
    revision: int
    replaces: int | None
    """The revision that is there now; None for a connection that is new."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What connecting an account gave."""

    tokens: SealedTokens
    token_expiry: datetime | None
    scopes: tuple[str, ...]
    auth_method: str
    renew_at: datetime | None = None
    """When the sweep should renew it; None: when the token ends."""
    account_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """One user's connection: the row and the state beside it. The tokens come by ``envelope``."""

    id: str
    tenant_id: str
    user_id: str
    provider: str
    auth_method: str
    account_id: str | None
    config: Mapping[str, Any]
    scopes: tuple[str, ...]
    metadata: Mapping[str, Any]
    token_expiry: datetime | None
    connected_at: datetime | None
    state: ConnectionState
    reason: str | None
    revision: int
    refresh_started_at: datetime | None
    refresh_generation: int | None
    renew_at: datetime | None
    receipt: Mapping[str, Any] | None
    updated_at: datetime
    _tokens: SealedTokens = field(repr=False)
    _digest: str | None = field(repr=False)

    @property
    def renewable(self) -> bool:
        """Whether there is something stored that renews the access."""
        return self._tokens.refresh_token is not None

    def envelope(self) -> SealedTokens:
        """The sealed tokens, none after disconnecting.

        Raises EnvelopeError when they are not those that were written with this revision. A
        ciphertext is bound to its revision, but a row that was put back as a whole, revision and
        all, would open: the digest beside the row was not put back with it.
        """
        digest = envelope_digest(self._tokens, self.revision)
        if self._digest is None or not hmac.compare_digest(digest, self._digest):
            raise EnvelopeError(
                f"The stored credential for {self.provider} is not the one that was written last.",
                hint="Connect the account again; the operator should compare with the audit log.",
            )
        return self._tokens

    @property
    def tokens_as_stored(self) -> SealedTokens:
        """What the row holds, unchecked: for telling what is wrong with it."""
        return self._tokens

    def sealed_as(self, other: Connection) -> bool:
        """Whether tokens, revision and digest are the same as when ``other`` was read."""
        mine, theirs = ((one._tokens, one._digest, one.revision) for one in (self, other))
        return mine == theirs

    @classmethod
    def of(cls, row: Integration, status: ConnectionStatus) -> Connection:
        """The connection that the two rows make."""
        return cls(
            id=row.id,
            tenant_id=status.tenant_id,
            user_id=row.user_id,
            provider=row.provider,
            auth_method=status.auth_method,
            account_id=status.account_id,
            config=status.config,
            scopes=tuple(row.scopes),
            metadata=row.metadata_,
            token_expiry=row.token_expiry,
            connected_at=row.connected_at,
            state=status.state,
            reason=status.reason,
            revision=status.revision,
            refresh_started_at=status.refresh_started_at,
            refresh_generation=status.refresh_generation,
            renew_at=status.renew_at,
            receipt=status.receipt,
            updated_at=status.updated_at,
            _tokens=SealedTokens(access_token=row.access_token, refresh_token=row.refresh_token),
            _digest=status.envelope_digest,
        )


def envelope_digest(tokens: SealedTokens, revision: int) -> str:
    """SHA-256 (hexadecimal) over the stored tokens and their revision."""
    fields = (tokens.access_token or "", tokens.refresh_token or "")
    return hashlib.sha256(lp("aura/envelope/v1", revision, *fields)).hexdigest()
