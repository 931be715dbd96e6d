"""Authorizing in the browser (RFC 6749 §4.1): from Aura to the provider and back.

What keeps the two ends together is ``state``. It is random, known to the database by its hash
only, used up by the first callback that shows it, and bound to one browser by a cookie, so that
nobody can finish an authorization that somebody else began (RFC 9700 §4.7).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aura_control.db.transaction import Transaction
from aura_control.services.connections import Owner, require_agent
from aura_control.services.inputs import check_variables
from aura_control.services.providers import auth_id, named_method
from aura_core.errors import InvalidInput, NotFound
from aura_core.manifest import Manifest, OAuth2Auth
from aura_core.oauth import authorization_url, new_verifier, uses_pkce

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = ["Departure", "Link", "Wish", "depart", "depart_by_ticket", "digest", "make_link"]

_LIFETIME = timedelta(minutes=10)
_UNBOUND = ""
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
class Link:
    """An address that one browser may open once."""

    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class _Started:
    manifest: Manifest
    method: OAuth2Auth
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str
    variables: Mapping[str, str]


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
    browser = _browser(browser)
    started, _ = await _start(
        services,
        principal,
        provider,
        wish,
        ticket=secrets.token_urlsafe(32),
        binding_hash=digest(browser),
    )
    return _departure(services, started, browser)


async def make_link(services: Services, principal: Principal, provider: str, wish: Wish) -> Link:
    """Begins an authorization for a browser that is not there yet; raises like ``depart``."""
    ticket = secrets.token_urlsafe(32)
    _, expires_at = await _start(
        services, principal, provider, wish, ticket=ticket, binding_hash=_UNBOUND
    )
    base = f"{services.settings.public_url}/api/integrations/{provider}"
    return Link(url=f"{base}?ticket={ticket}", expires_at=expires_at)


async def depart_by_ticket(
    services: Services, provider: str, ticket: str, *, browser: str | None
) -> Departure:
    """Goes on with a link in the browser that opened it first. Raises InvalidInput."""
    browser = _browser(browser)
    state = _state(services, ticket)
    async with services.database.transaction() as tx:
        row = await tx.oauth.bind(digest(state), binding_hash=digest(browser))
        if row is None or row.provider != provider:
            raise InvalidInput(
                "This link was used already, or its time is over.", hint="Ask for a new one."
            )
        verifier = await services.vault.open_field(
            tx, row.tenant_id, _verifier_of(row.state_hash), "verifier", 0, row.verifier
        )
    manifest = services.providers.open(provider).manifest
    method = named_method(manifest, row.auth_method)
    if not isinstance(method, OAuth2Auth):
        raise InvalidInput(f"{manifest.name} is no longer connected in the browser.")
    started = _Started(
        manifest=manifest,
        method=method,
        state=state,
        verifier=verifier,
        redirect_uri=row.redirect_uri,
        variables={name: str(value) for name, value in row.config.items()},
    )
    return _departure(services, started, browser)


async def open_verifier(services: Services, tx: Transaction, tenant_id: str, state_hash: str,
                        sealed: str) -> str:  # fmt: skip
    """The PKCE verifier of an authorization. Raises EnvelopeError."""
    return await services.vault.open_field(
        tx, tenant_id, _verifier_of(state_hash), "verifier", 0, sealed
    )


async def _start(
    services: Services,
    principal: Principal,
    provider: str,
    wish: Wish,
    *,
    ticket: str,
    binding_hash: str,
) -> tuple[_Started, datetime]:
    manifest = services.providers.open(provider).manifest
    method = _browser_method(manifest, wish.auth)
    variables = check_variables(manifest, method, wish.variables)
    services.providers.context(manifest, method, variables)  # the operator's client is there
    started = _Started(
        manifest=manifest,
        method=method,
        state=_state(services, ticket),
        verifier=new_verifier(),
        redirect_uri=f"{services.settings.public_url}/api/integrations/{provider}/callback",
        variables=variables,
    )
    state_hash = digest(started.state)
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
                started.verifier,
            ),
            binding_hash=binding_hash,
            redirect_uri=started.redirect_uri,
            expires_at=expires_at,
            agent_id=wish.agent_id,
            config=variables,
        )
    return started, expires_at


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


def _departure(services: Services, started: _Started, browser: str) -> Departure:
    ctx = services.providers.context(started.manifest, started.method, started.variables)
    url = authorization_url(
        ctx,
        redirect_uri=started.redirect_uri,
        state=started.state,
        verifier=started.verifier if uses_pkce(started.method) else None,
    )
    return Departure(url=url, browser=browser)


def _state(services: Services, ticket: str) -> str:
    """The state that belongs to a ticket. They differ, so that neither the provider, which sees
    the state, nor its logs can open the link."""
    if not _RANDOM.fullmatch(ticket):
        raise NotFound("There is no such link.")
    key = services.vault.derive("aura/oauth-state/v1")
    mac = hmac.new(key, ticket.encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(mac).rstrip(b"=").decode()


def _browser(cookie: str | None) -> str:
    """The browser's value, or a new one: several tabs share it."""
    if cookie is not None and _RANDOM.fullmatch(cookie):
        return cookie
    return secrets.token_urlsafe(32)


def _verifier_of(state_hash: str) -> str:
    return f"oauth:{state_hash}"
