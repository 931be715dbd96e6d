"""When a token should be renewed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState
from aura_control.services.providers import named_method
from aura_core.errors import AuraError
from aura_core.manifest import AuthMethod, OAuth2Auth
from aura_core.registry import Registry

__all__ = ["LONGEST_MARGIN", "due_at", "is_due", "margin", "renews_at", "repeatable"]

LONGEST_MARGIN = 600.0
"""Seconds before its end at which a token is renewed at the earliest, if its manifest is silent."""

_SHORTEST_MARGIN = 60.0

_RENEWED = (ConnectionState.CONNECTED, ConnectionState.EXPIRING, ConnectionState.UNCERTAIN)


def margin(connection: Connection, method: AuthMethod) -> timedelta:
    """How long before its end the access token is renewed.

    The manifest's margin, or a tenth of the lifetime between one and ten minutes; never more than
    half of the lifetime, or a short-lived token would be renewed without end. The lifetime counts
    from the connection's revision, which is the time in milliseconds when it was stored.
    """
    expiry = connection.token_expiry
    if expiry is None:
        return timedelta(0)
    stored = datetime.fromtimestamp(connection.revision / 1000, UTC)
    lifetime = max((expiry - stored).total_seconds(), 0.0)
    given = method.refresh.margin if isinstance(method, OAuth2Auth) else None
    seconds = (
        min(max(lifetime / 10, _SHORTEST_MARGIN), LONGEST_MARGIN) if given is None else float(given)
    )
    return timedelta(seconds=min(seconds, lifetime / 2))


def is_due(connection: Connection, method: AuthMethod, now: datetime) -> bool:
    """Whether the access token is within its margin, or over."""
    expiry = connection.token_expiry
    return expiry is not None and expiry - margin(connection, method) <= now


def due_at(connection: Connection, method: AuthMethod) -> datetime | None:
    """When the sweep renews the token: up to a quarter of the margin early, by a part of it that
    the connection's id fixes, so that tokens that were issued together do not return together."""
    if connection.token_expiry is None:
        return None
    before = margin(connection, method)
    part = int.from_bytes(hashlib.sha256(connection.id.encode()).digest()[:4]) / 2**32
    return connection.token_expiry - before - before * (part / 4)


def repeatable(method: AuthMethod) -> bool:
    """Whether the same refresh token may be presented again when its answer was lost: because the
    manifest says so, or because nothing is consumed by presenting it."""
    if not isinstance(method, OAuth2Auth):
        return True
    return method.refresh.retry_refresh == "safe" or method.refresh.rotation == "none"


def renews_at(registry: Registry, connection: Connection) -> datetime | None:
    """When Aura renews the access by itself; None when it does not, or its plugin is gone. Only
    the manifest is read."""
    if connection.state not in _RENEWED or not connection.renewable:
        return None
    try:
        method = named_method(registry.get(connection.provider), connection.auth_method)
    except AuraError:
        return None
    return due_at(connection, method)
