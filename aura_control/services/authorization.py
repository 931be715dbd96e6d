"""Authorizing in the browser (RFC 6749 §4.1): from Aura to the provider and back.

What keeps the two ends together is ``state``. It is random, known to the database by its hash
only, used up by the first callback that shows it, and bound to one browser by a cookie, so that
nobody can finish an authorization that somebody else began (RFC 9700 §4.7).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aura_control.db.models import OAuthTransaction
from aura_control.db.transaction import Transaction
from aura_control.services.connections import Owner, require_agent
from aura_control.services.inputs import check_variables
from aura_control.services.providers import auth_id, named_method
from aura_core.errors import InvalidInput
from aura_core.manifest import Manifest, OAuth2Auth
from aura_core.oauth import authorization_url, new_verifier, uses_pkce

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = [
    "UNBOUND",
    "Departure",
    "Started",
    "Wish",
    "browser_value",
    "depart",
    "departure",
    "digest",
    "is_random",
    "open_verifier",
    "start",
]

_LIFETIME = timedelta(minutes=10)
UNBOUND = ""
"""The binding of an authorization that no browser has taken up yet."""
_RANDOM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for beside the provider."""

    auth: str | None = None
    agent_id: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Where to send the browser, and the value of its cookie."""

    url: str = field(repr=False)
    browser: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Started:
    """An authorization that the database knows, with what its address is made of."""

    manifest: Manifest
    method: OAuth2Auth
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str
    variables: Mapping[str, str]
    expires_at: datetime


def digest(secret: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def depart(
    services: Services,
    principal: Principal,
    provider: str,
    wish: Wish,
    *,
    browser: str | None,
) -> Departure:
    """Begins an authorization in the browser that asks. ``browser`` is its cookie, if it has one.

    Raises NotFound, InvalidInput, Conflict and ConfigurationError.
    """
    browser = browser_value(browser)
    started = await start(
        services,
        principal,
        provider,
        wish,
        state=secrets.token_urlsafe(32),
        binding_hash=digest(browser),
    )
    return departure(services, started, browser)


async def open_verifier(services: Services, tx: Transaction, row: OAuthTransaction) -> str:
    """The PKCE verifier of an authorization. Raises EnvelopeError."""
    return await services.vault.open_field(
        tx, row.tenant_id, _verifier_of(row.state_hash), "verifier", 0, row.verifier
    )


async def start(
    services: Services,
    principal: Principal,
    provider: str,
    wish: Wish,
    *,
    state: str,
    binding_hash: str,
) -> Started:
    """Remembers an authorization, bound to a browser or (``UNBOUND``) to none yet."""
    manifest = services.providers.open(provider).manifest
    method = _browser_method(manifest, wish.auth)
    variables = check_variables(manifest, method, wish.variables)
    services.providers.context(manifest, method, variables)  # the operator's client is there
    verifier, state_hash = new_verifier(), digest(state)
    redirect_uri = f"{services.settings.public_url}/api/integrations/{provider}/callback"
    async with services.database.transaction() as tx:
        owner = Owner(
            tenant_id=principal.tenant_id, user_id=principal.user_id, agent_id=wish.agent_id
        )
        await require_agent(tx, owner)
        expires_at = tx.now + _LIFETIME
        await tx.oauth.start(
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            provider=provider,
            auth_method=auth_id(method),
            state_hash=state_hash,
            verifier=await services.vault.seal_field(
                tx,
                principal.tenant_id,
                _verifier_of(state_hash),
                "verifier",
                0,
                verifier,
            ),
            binding_hash=binding_hash,
            redirect_uri=redirect_uri,
            expires_at=expires_at,
            agent_id=wish.agent_id,
            config=variables,
        )
    return Started(
        manifest=manifest,
        method=method,
        state=state,
        verifier=verifier,
        redirect_uri=redirect_uri,
        variables=variables,
        expires_at=expires_at,
    )


def _browser_method(manifest: Manifest, name: str | None) -> OAuth2Auth:
    if name is not None:
        method = named_method(manifest, name)
        if isinstance(method, OAuth2Auth):
            return method
    else:
        for method in manifest.auth:
            if isinstance(method, OAuth2Auth):
                return method
    raise InvalidInput(
        f"{manifest.name} is not connected in the browser.",
        hint=f"Send its key: POST /api/integrations/{manifest.id}.",
    )


def departure(services: Services, started: Started, browser: str) -> Departure:
    """The way to the provider."""
    ctx = services.providers.context(started.manifest, started.method, started.variables)
    url = authorization_url(
        ctx,
        redirect_uri=started.redirect_uri,
        state=started.state,
        verifier=started.verifier if uses_pkce(started.method) else None,
    )
    return Departure(url=url, browser=browser)


def browser_value(cookie: str | None) -> str:
    """The browser's value, or a new one: several tabs share it."""
    return cookie if cookie is not None and is_random(cookie) else secrets.token_urlsafe(32)


def is_random(text: str) -> bool:
    """Whether the text is in the form of our random values: 256 bits, base64url."""
    return _RANDOM.fullmatch(text) is not None


def _verifier_of(state_hash: str) -> str:
    return f"oauth:{state_hash}"
