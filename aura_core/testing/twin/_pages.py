"""The twin's pages: consent, an error, and what the twin is. No asset comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from starlette.responses import HTMLResponse

from aura_core.testing.twin._accounts import TwinAccount

__all__ = ["consent_page", "error_page", "front_page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #2557d6; }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem;
  font: 16px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
main { width: min(34rem, 100%); border: 1px solid var(--line); border-radius: 14px;
  padding: 2rem; }
h1 { font-size: 1.3rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 1rem; }
small, .note { color: GrayText; font-size: .85rem; }
fieldset { border: 0; border-top: 1px solid var(--line); margin: 0; padding: 1rem 0; }
legend { padding: 0 .5rem 0 0; font-size: .85rem; color: GrayText; }
label { display: flex; gap: .6rem; align-items: baseline; padding: .2rem 0;
  overflow-wrap: anywhere; }
label span { font-size: .9rem; }
input { accent-color: var(--accent); }
.actions { display: flex; gap: .75rem; justify-content: flex-end; padding-top: 1rem;
  border-top: 1px solid var(--line); }
button { font: inherit; padding: .5rem 1.4rem; border-radius: 999px; cursor: pointer;
  border: 1px solid var(--line); background: transparent; color: inherit; }
button[value=allow] { background: var(--accent); border-color: var(--accent); color: #fff; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


def _page(title: str, body: str, *, status: int = 200) -> HTMLResponse:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )
    return HTMLResponse(html, status_code=status, headers=_HEADERS)


def consent_page(
    *,
    provider: str,
    client_id: str,
    ticket: str,
    accounts: Iterable[TwinAccount],
    scopes: Iterable[str],
) -> HTMLResponse:
    """Allow or deny; every scope can be unticked, as users do."""
    people = "".join(
        f'<label><input type="radio" name="account" value="{escape(person.id)}"'
        f"{' checked' if index == 0 else ''}><span>{escape(person.name)} "
        f"<small>{escape(person.email)}</small></span></label>"
        for index, person in enumerate(accounts)
    )
    asked = "".join(
        f'<label><input type="checkbox" name="scope" value="{escape(scope)}" checked>'
        f"<span>{escape(scope)}</span></label>"
        for scope in scopes
    )
    return _page(
        f"{provider} (twin)",
        f"<h1>{escape(provider)}</h1>"
        f"<p><strong>{escape(client_id)}</strong> wants to use your account.</p>"
        '<form method="post">'
        f'<input type="hidden" name="ticket" value="{escape(ticket)}">'
        f"<fieldset><legend>Account</legend>{people}</fieldset>"
        + (f"<fieldset><legend>May do</legend>{asked}</fieldset>" if asked else "")
        + '<p class="note">This is a provider twin on this machine: nobody real is asked.</p>'
        '<div class="actions"><button name="decision" value="deny">Deny</button>'
        '<button name="decision" value="allow">Allow</button></div></form>',
    )


def error_page(title: str, words: str, *, status: int = 400) -> HTMLResponse:
    """For what must not be redirected (RFC 6749 §4.1.2.1)."""
    return _page(title, f"<h1>{escape(title)}</h1><p>{escape(words)}</p>", status=status)


def front_page(*, provider: str, origin: str, lines: Iterable[str]) -> HTMLResponse:
    """What the twin is and which credentials it accepts."""
    items = "".join(f"<p><code>{escape(line)}</code></p>" for line in lines)
    return _page(
        f"Twin of {provider}",
        f"<h1>Twin of {escape(provider)}</h1>"
        f"<p>It stands in for the provider at <code>{escape(origin)}</code>.</p>{items}",
    )
