"""The small pages that a browser sees at the end of an authorization.

They are answered at an address that holds a code and a state, so they load nothing, send no
referrer, are kept by nobody, and take both out of the address bar at once. What they say to the
window that opened them goes to Aura's own origin only.
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
        self._environment = Environment(
            loader=PackageLoader("aura_control.web"), autoescape=True, undefined=StrictUndefined
        )

    def connected(self, *, provider: str, name: str) -> HTMLResponse:
        """The account is connected; the window closes itself."""
        return self._page(
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
            status=status,
            provider=provider,
            outcome="failed",
            title="Not connected",
            text=text,
            hint=hint,
        )

    def _page(self, *, status: int, **values: str | None) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        html = self._environment.get_template("outcome.html").render(
            nonce=nonce, origin=self._origin, **values
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(
            html,
            status_code=status,
            headers={
                "Content-Security-Policy": policy,
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-store",
            },
        )
