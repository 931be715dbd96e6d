"""Links: authorizing in a browser that has no token for Aura.

A link can be passed on, so opening it goes nowhere yet: its page says for which Aura account which
provider would be connected, and only the person who goes on from there, in that browser, is sent to
the provider. Otherwise a stranger's link would look like Aura asking for consent, and whoever gave
it would have connected the own account to the stranger's (RFC 9700 §4.7 is silent on who began).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from aura_control.db.models import OAuthTransaction
from aura_control.services.authorization import (
    UNBOUND,
    Departure,
    Started,
    Wish,
    browser_value,
    departure,
    digest,
    is_random,
    open_verifier,
    start,
)
from aura_control.services.providers import named_method
from aura_core.encoding import b64url, lp
from aura_core.errors import InvalidInput, NotFound
from aura_core.manifest import OAuth2Auth

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = ["Invitation", "Link", "make_link", "open_link", "take_up_link"]

_HINT = "Ask for a new one."


@dataclass(frozen=True, kw_only=True)
class Link:
    """An address that one browser may take up once."""

    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What somebody who opened a link has to know before going on."""

    name: str
    """The provider's."""
    email: str
    """Whose Aura account the connection will belong to."""
    browser: str = field(repr=False)
    """The value of the browser's cookie."""
    proof: str = field(repr=False)
    """Comes back with the decision: only a page that this browser was shown holds it."""


async def make_link(services: Services, principal: Principal, provider: str, wish: Wish) -> Link:
    """Begins an authorization for a browser that is not there yet.

    Raises NotFound, InvalidInput, Conflict and ConfigurationError.
    """
    ticket = secrets.token_urlsafe(32)
    started = await start(
        services, principal, provider, wish, state=_state(services, ticket), binding_hash=UNBOUND
    )
    base = f"{services.settings.public_url}/api/integrations/{provider}"
    return Link(url=f"{base}?ticket={ticket}", expires_at=started.expires_at)


async def open_link(
    services: Services, provider: str, ticket: str, *, browser: str | None
) -> Invitation:
    """What the link is for. Nothing changes by it: mail scanners and previews open links too.

    Raises InvalidInput and NotFound.
    """
    browser = browser_value(browser)
    state = _state(services, ticket)
    async with services.database.reading() as tx:
        row = _usable(await tx.oauth.unopened(digest(state)), provider)
        user = await tx.users.get(tenant_id=row.tenant_id, user_id=row.user_id)
    return Invitation(
        name=services.providers.open(provider).manifest.name,
        email=user.email,
        browser=browser,
        proof=_proof(services, ticket, browser),
    )


async def take_up_link(
    services: Services, provider: str, ticket: str, proof: str, *, browser: str | None
) -> Departure:
    """Goes on with a link in the browser whose user decided so; in no other one from then on.

    Raises InvalidInput and NotFound.
    """
    state = _state(services, ticket)
    # The cookie is not sent along by other sites' forms; the proof also stops those of sibling
    # hosts and of other ports, which browsers count as the same site.
    if browser is None or not hmac.compare_digest(
        proof.encode(), _proof(services, ticket, browser).encode()
    ):
        raise InvalidInput(
            "This link was not opened in this browser.",
            hint="Open it again, and allow cookies for Aura.",
        )
    async with services.database.transaction() as tx:
        row = _usable(await tx.oauth.bind(digest(state), binding_hash=digest(browser)), provider)
        verifier = await open_verifier(services, tx, row)
    manifest = services.providers.open(provider).manifest
    method = named_method(manifest, row.auth_method)
    if not isinstance(method, OAuth2Auth):
        raise InvalidInput(f"{manifest.name} is no longer connected in the browser.")
    started = Started(
        manifest=manifest,
        method=method,
        state=state,
        verifier=verifier,
        redirect_uri=row.redirect_uri,
        variables={name: str(value) for name, value in row.config.items()},
        expires_at=row.expires_at,
    )
    return departure(services, started, browser)


def _usable(row: OAuthTransaction | None, provider: str) -> OAuthTransaction:
    if row is None or row.provider != provider:
        raise InvalidInput("This link was used already, or its time is over.", hint=_HINT)
    return row


def _state(services: Services, ticket: str) -> str:
    """The state that belongs to a ticket. They differ, so that neither the provider, which sees
    the state, nor its logs can open the link."""
    if not is_random(ticket):
        raise NotFound("There is no such link.", hint=_HINT)
    key = services.vault.derive("aura/oauth-state/v1")
    return b64url(hmac.new(key, ticket.encode(), hashlib.sha256).digest())


def _proof(services: Services, ticket: str, browser: str) -> str:
    key = services.vault.derive("aura/oauth-link/v1")
    return b64url(hmac.new(key, lp(ticket, browser), hashlib.sha256).digest())
