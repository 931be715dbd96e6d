"""Provider twins: a manifest's provider, served offline, so that connecting, refreshing, revoking
and calling work before anybody has registered an app.

A twin does what the manifest declares and refuses everything else: exact redirect URIs, PKCE,
single-use codes, the declared client authentication, rotation and reuse, and credentials in their
place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from html import unescape

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aura_core.adapter import OAuthClientSettings
from aura_core.errors import ProviderRejected
from aura_core.manifest import Manifest
from aura_core.testing.twin._accounts import TwinAccount
from aura_core.testing.twin._api import Example, read_examples, shipped_examples
from aura_core.testing.twin._journal import Journal, Record, digest
from aura_core.testing.twin._twin import Fault, Twin

__all__ = [
    "Example",
    "Fault",
    "Journal",
    "Record",
    "Twin",
    "TwinAccount",
    "consent",
    "create_twin",
    "digest",
    "read_examples",
    "shipped_examples",
]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_twin(
    manifest: Manifest,
    *,
    origin: str,
    client: OAuthClientSettings | None = None,
    accounts: Sequence[TwinAccount] = (TwinAccount(),),
    examples: Sequence[Example] | None = None,
    clock: Callable[[], datetime] = _utc_now,
    lifetime: int | None = None,
    redirect_uris: Collection[str] | None = None,
) -> Starlette:
    """The twin as an application; ``app.state.twin`` is its :class:`Twin`.

    ``origin`` is where it is served: what ``manifest.relocated(origin)`` sends its calls to.
    ``client``: the registered client, any when ``None``. ``examples``: the API's answers, those
    that the plugin ships when ``None``. ``lifetime``: seconds an access token lives, instead of
    what the manifest says. ``redirect_uris``: the registered ones, any http or
    https URI when ``None``.
    """
    twin = Twin(
        manifest=manifest,
        origin=origin,
        client=client,
        accounts=tuple(accounts),
        examples=shipped_examples(manifest) if examples is None else tuple(examples),
        now=clock,
        lifetime=lifetime,
        redirect_uris=redirect_uris,
    )

    async def front(_: Request) -> Response:
        return twin.front()

    app = Starlette(
        routes=[
            Route("/", front),
            Route("/{host}", twin.handle, methods=_METHODS),
            Route("/{host}/{path:path}", twin.handle, methods=_METHODS),
        ]
    )
    app.state.twin = twin
    return app


async def consent(
    http: httpx.AsyncClient,
    authorization_url: str,
    *,
    account: str | None = None,
    scopes: Collection[str] | None = None,
    deny: bool = False,
) -> str:
    """Do what a user does at the consent page, and answer the callback's URL.

    ``account``: an id, the first when ``None``; ``scopes``: those left ticked. Raises
    :class:`ProviderRejected` when the twin shows an error instead of asking.
    """
    page = await http.get(authorization_url)
    if page.is_redirect:
        return page.headers["location"]
    ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
    if ticket is None:
        words = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.text, flags=re.DOTALL)
        raise ProviderRejected(" ".join(unescape(words).split()), status=page.status_code)
    people = re.findall(r'name="account" value="([^"]+)"', page.text)
    asked = [unescape(s) for s in re.findall(r'name="scope" value="([^"]+)"', page.text)]
    form = {
        "ticket": ticket[1],
        "account": account or unescape(people[0]),
        "scope": [s for s in asked if scopes is None or s in scopes],
        "decision": "deny" if deny else "allow",
    }
    answer = await http.post(authorization_url, data=form)
    if not answer.is_redirect:
        raise ProviderRejected("The twin did not redirect.", status=answer.status_code)
    return answer.headers["location"]
