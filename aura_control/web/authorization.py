"""Where a browser comes along: to the provider, and back from it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aura_control.incoming import authenticate, path_parameter, read_query, services_of
from aura_control.logs import get_logger
from aura_control.problems import status_of
from aura_control.services.arrival import arrive
from aura_control.services.authorization import Departure, Wish, depart, depart_by_ticket
from aura_control.web.pages import Pages
from aura_core.errors import AuraError, InvalidInput

__all__ = ["authorize", "callback"]

_log = get_logger(__name__)

_COOKIE_SECONDS = 600


async def authorize(request: Request) -> Response:
    """Sends the browser to the provider.

    With ``?ticket=`` the browser opened a link and sees a page when it is of no use; otherwise the
    request has a bearer token, and ``agent_id``, ``auth`` and the manifest's variables as query.
    """
    services, provider = services_of(request), path_parameter(request, "provider")
    browser = request.cookies.get(_cookie(secure=services.settings.secure))
    if "ticket" in request.query_params:
        try:
            params = read_query(request)
            if params.keys() != {"ticket"}:
                raise InvalidInput("A link has no other parameter than its ticket.")
            departure = await depart_by_ticket(
                services, provider, params["ticket"], browser=browser
            )
        except AuraError as error:
            return _failure(request, provider, error)
        return _send_off(departure, secure=services.settings.secure)
    principal = await authenticate(request)
    departure = await depart(
        services, principal, provider, _wish(read_query(request)), browser=browser
    )
    return _send_off(departure, secure=services.settings.secure)


async def callback(request: Request) -> Response:
    """Finishes the authorization; a page either way."""
    services, provider = services_of(request), path_parameter(request, "provider")
    browser = request.cookies.get(_cookie(secure=services.settings.secure))
    try:
        connection = await arrive(services, provider, read_query(request), browser=browser)
        name = services.registry.get(connection.provider).name
    except AuraError as error:
        return _failure(request, provider, error)
    return _pages(request).connected(provider=provider, name=name)


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages


def _wish(params: Mapping[str, str]) -> Wish:
    rest = {name: value for name, value in params.items() if name not in ("auth", "agent_id")}
    return Wish(auth=params.get("auth"), agent_id=params.get("agent_id"), variables=rest)


def _cookie(*, secure: bool) -> str:
    """``__Host-`` binds the cookie to this very host, so that no sibling domain can plant one
    (RFC 6265bis §4.1.3.2); browsers accept the prefix over https only."""
    return "__Host-aura-oauth" if secure else "aura-oauth"


def _send_off(departure: Departure, *, secure: bool) -> Response:
    response = RedirectResponse(
        departure.url,
        status_code=302,
        headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )
    # Lax, not Strict: the provider's redirect back is a navigation from another site, on which
    # browsers send no Strict cookie.
    response.set_cookie(
        _cookie(secure=secure),
        departure.browser,
        max_age=_COOKIE_SECONDS,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )
    return response


def _failure(request: Request, provider: str, error: AuraError) -> Response:
    _log.info("not_connected", provider=provider[:64], kind=type(error).__name__)
    return _pages(request).failed(
        provider=provider, status=status_of(error), text=error.message, hint=error.hint
    )
