"""When a token should be renewed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from aura_control.db.connection import Connection, Slot
from aura_control.db.models import ConnectionState
from aura_core.manifest import AuthMethod, OAuth2Auth

__all__ = ["due_at", "is_due", "margin", "renews_at", "repeatable"]

_LONGEST_MARGIN = 600.0
_SHORTEST_MARGIN = 60.0

_RENEWED = (ConnectionState.CONNECTED, ConnectionState.EXPIRING, ConnectionState.UNCERTAIN)

_SPREAD = 0.25
"""Part of the lifetime over which the sweep spreads tokens that end at the same time."""


def margin(expiry: datetime, revision: int, method: AuthMethod) -> timedelta:
    """How long before its end an access token is renewed.

    The manifest's margin, or a tenth of the lifetime between one and ten minutes; never more than
    half of the lifetime, or a short-lived token would be renewed without end. The lifetime counts
    from the connection's revision, which is the time in milliseconds when it was stored.
    """
    lifetime = _lifetime(expiry, revision)
    given = method.refresh.margin if isinstance(method, OAuth2Auth) else None
    seconds = (
        min(max(lifetime / 10, _SHORTEST_MARGIN), _LONGEST_MARGIN)
        if given is None
        else float(given)
    )
    return timedelta(seconds=min(seconds, lifetime / 2))


def _lifetime(expiry: datetime, revision: int) -> float:
    stored = datetime.fromtimestamp(revision / 1000, UTC)
    return max((expiry - stored).total_seconds(), 0.0)


def is_due(connection: Connection, method: AuthMethod, now: datetime) -> bool:
    """Whether the access token is within its margin, or over."""
    expiry = connection.token_expiry
    return expiry is not None and expiry - margin(expiry, connection.revision, method) <= now


def due_at(slot: Slot, expiry: datetime | None, method: AuthMethod) -> datetime | None:
    """When the sweep renews the token that ``slot`` holds: before its margin, by up to a quarter
    of its lifetime, at a place that the connection's id fixes.

    Tokens that were issued together must not return together: 100,000 of one hour each come back
    over fifteen minutes, about 110 in a second, and over more of the hour each time.
    """
    if expiry is None:
        return None
    part = int.from_bytes(hashlib.sha256(slot.connection_id.encode()).digest()[:4]) / 2**32
    early = timedelta(seconds=_lifetime(expiry, slot.revision) * _SPREAD * part)
    return expiry - margin(expiry, slot.revision, method) - early


def repeatable(method: AuthMethod) -> bool:
    """Whether the same refresh token may be presented again when its answer was lost: because the
    manifest says so, or because nothing is consumed by presenting it."""
    if not isinstance(method, OAuth2Auth):
        return True
    facts = method.refresh
    return facts.retry_refresh == "safe" or facts.reuse == "grace" or facts.rotation == "none"


def renews_at(connection: Connection) -> datetime | None:
    """When Aura renews the access by itself; None when it does not."""
    renewed = connection.state in _RENEWED and connection.renewable
    return connection.renew_at if renewed else None
