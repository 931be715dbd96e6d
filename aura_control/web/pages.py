"""The small pages that a browser sees before and after an authorization.

Their addresses hold a ticket, or a code and a state, so they load nothing, send no referrer to
others and are kept by nobody; the last one takes them out of the address bar at once. What it says
to the window that opened it goes to Aura's own origin only.
"""

from __future__ import annotations

import secrets

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

__all__ = ["Pages"]


class Pages:
    """Renders the pages for one public origin."""

    def __init__(self, *, origin: str) -> None:
        self._origin = origin
        # Where a form may lead: to us, and by our redirect to the provider, which may send the
        # browser on to any sign-in service. Browsers hold all of these against the policy.
        self._forms = "https:" if origin.startswith("https:") else "https: http:"
        self._environment = Environment(
            loader=PackageLoader("aura_control.web"), autoescape=True, undefined=StrictUndefined
        )

    def asked(
        self, *, provider: str, name: str, email: str, ticket: str, proof: str
    ) -> HTMLResponse:
        """Somebody opened a link: what it is for, and a button to go on."""
        return self._page(
            "question.html",
            status=200,
            forms=self._forms,
            # The browser says "Origin: null" with a form from a page that sends no referrer.
            referrer="same-origin",
            provider=provider,
            name=name,
            email=email,
            ticket=ticket,
            proof=proof,
        )

    def connected(self, *, provider: str, name: str) -> HTMLResponse:
        """The account is connected; the window closes itself."""
        return self._page(
            "outcome.html",
            status=200,
            provider=provider,
            outcome="connected",
            title=f"{name} is connected",
            text="You can close this window.",
            hint=None,
        )

    def failed(self, *, provider: str, status: int, text: str, hint: str | None) -> HTMLResponse:
        """The account is not connected, and why; the window stays open to be read."""
        return self._page(
            "outcome.html",
            status=status,
            provider=provider,
            outcome="failed",
            title="Not connected",
            text=text,
            hint=hint,
        )

    def _page(
        self,
        template: str,
        *,
        status: int,
        forms: str = "'none'",
        referrer: str = "no-referrer",
        **values: str | None,
    ) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        html = self._environment.get_template(template).render(
            nonce=nonce, origin=self._origin, **values
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            f"base-uri 'none'; form-action {forms}; frame-ancestors 'none'"
        )
        return HTMLResponse(
            html,
            status_code=status,
            headers={
                "Content-Security-Policy": policy,
                "Referrer-Policy": referrer,
                "Cache-Control": "no-store",
            },
        )
