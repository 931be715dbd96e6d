"""Where a browser comes along: to the provider, and back from it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aura_control.incoming import (
    authenticate,
    path_parameter,
    read_form,
    read_query,
    services_of,
)
from aura_control.logs import get_logger
from aura_control.problems import status_of
from aura_control.services.arrival import arrive
from aura_control.services.authorization import Departure, Wish, depart
from aura_control.services.links import open_link, take_up_link
from aura_control.web.pages import Pages
from aura_core.errors import AuraError, InvalidInput

__all__ = ["authorize", "callback", "proceed"]

_log = get_logger(__name__)

_COOKIE_SECONDS = 600


async def authorize(request: Request) -> Response:
    """Sends the browser to the provider.

    With ``?ticket=`` somebody opened a link, and is asked first; otherwise the request has a bearer
    token, and ``agent_id``, ``auth`` and the manifest's variables as query.
    """
    if "ticket" in request.query_params:
        return await _ask(request)
    services, provider = services_of(request), path_parameter(request, "provider")
    principal = await authenticate(request)
    wish = _wish(read_query(request))
    departure = await depart(services, principal, provider, wish, browser=_browser(request))
    return _send_off(departure, status=302, secure=services.settings.secure)


async def _ask(request: Request) -> Response:
    services, provider = services_of(request), str(request.path_params["provider"])
    try:
        ticket = _only(read_query(request), "ticket")["ticket"]
        invitation = await open_link(
            services, path_parameter(request, "provider"), ticket, browser=_browser(request)
        )
    except AuraError as error:
        return _failure(request, provider, error)
    page = _pages(request).asked(
        provider=provider,
        name=invitation.name,
        email=invitation.email,
        ticket=ticket,
        proof=invitation.proof,
    )
    _set_cookie(page, invitation.browser, secure=services.settings.secure)
    return page


async def proceed(request: Request) -> Response:
    """Sends the browser to the provider: somebody opened a link and decided to go on."""
    services, provider = services_of(request), str(request.path_params["provider"])
    try:
        form = _only(await read_form(request), "ticket", "proof")
        departure = await take_up_link(
            services,
            path_parameter(request, "provider"),
            form["ticket"],
            form["proof"],
            browser=_browser(request),
        )
    except AuraError as error:
        return _failure(request, provider, error)
    return _send_off(departure, status=303, secure=services.settings.secure)


async def callback(request: Request) -> Response:
    """Finishes the authorization; a page either way."""
    services, provider = services_of(request), str(request.path_params["provider"])
    try:
        connection = await arrive(
            services,
            path_parameter(request, "provider"),
            read_query(request),
            browser=_browser(request),
        )
        name = services.registry.get(connection.provider).name
    except AuraError as error:
        return _failure(request, provider, error)
    return _pages(request).connected(provider=provider, name=name)


def _only(params: Mapping[str, str], *names: str) -> Mapping[str, str]:
    if params.keys() != set(names):
        raise InvalidInput("The address was changed on its way.", hint="Open the link again.")
    return params


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages


def _wish(params: Mapping[str, str]) -> Wish:
    rest = {name: value for name, value in params.items() if name not in ("auth", "agent_id")}
    return Wish(auth=params.get("auth"), agent_id=params.get("agent_id"), variables=rest)


def _browser(request: Request) -> str | None:
    """The browser's own value, if it was given one."""
    return request.cookies.get(_cookie(secure=services_of(request).settings.secure))


def _cookie(*, secure: bool) -> str:
    """``__Host-`` binds the cookie to this very host, so that no sibling domain can plant one
    (RFC 6265bis §4.1.3.2); browsers accept the prefix over https only."""
    return "__Host-aura-oauth" if secure else "aura-oauth"


def _send_off(departure: Departure, *, status: int, secure: bool) -> Response:
    response = RedirectResponse(
        departure.url,
        status_code=status,
        headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )
    _set_cookie(response, departure.browser, secure=secure)
    return response


def _set_cookie(response: Response, browser: str, *, secure: bool) -> None:
    # Not Strict: the provider's redirect back is a navigation from another site, on which browsers
    # send no Strict cookie. Lax still keeps it off the forms of other sites.
    response.set_cookie(
        _cookie(secure=secure),
        browser,
        max_age=_COOKIE_SECONDS,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def _failure(request: Request, provider: str, error: AuraError) -> Response:
    _log.info("not_connected", provider=provider[:64], kind=type(error).__name__)
    return _pages(request).failed(
        provider=provider, status=status_of(error), text=error.message, hint=error.hint
    )
