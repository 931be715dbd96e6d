"""What every route reads of a request: whose it is, its path, its query."""

from __future__ import annotations

import re
from typing import cast

from starlette.requests import Request

from aura_control.composition import Services
from aura_control.principal import Principal
from aura_control.problems import Malformed
from aura_control.services.tokens import token_hash
from aura_core.errors import AuthenticationRequired, InvalidInput, NotFound

__all__ = ["ID_PATTERN", "authenticate", "path_parameter", "read_query", "services_of"]

ID_PATTERN = r"[A-Za-z0-9_-]{1,64}"
"""An id as it may come from outside."""

_ID = re.compile(ID_PATTERN, re.ASCII)
_MAX_VALUE = 4096
_LONGEST_TOKEN = 512


def services_of(request: Request) -> Services:
    """What the application is composed of."""
    return cast(Services, request.app.state.services)


async def authenticate(request: Request) -> Principal:
    """Whom the request's bearer token (RFC 6750 §2.1) speaks for; else AuthenticationRequired.

    Tokens are taken from the header only: one in a query ends up in logs and histories, and one in
    a cookie would be sent along by other sites.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() == "bearer" and token.isascii() and 0 < len(token) <= _LONGEST_TOKEN:
        async with services_of(request).database.reading() as tx:
            principal = await tx.tokens.authenticate(token_hash(token))
        if principal is not None:
            return principal
    raise AuthenticationRequired(
        "A valid API token is needed.", hint="Send it as: Authorization: Bearer <token>."
    )


def path_parameter(request: Request, name: str) -> str:
    """A part of the path that is an id. Raises NotFound for what can be none."""
    value = str(request.path_params[name])
    if not _ID.fullmatch(value):
        raise NotFound("There is no such thing.")
    return value


def read_query(request: Request) -> dict[str, str]:
    """The query's parameters. Raises Malformed for one that comes twice: two readers of it could
    see two values (RFC 6749 §3.1 forbids it too)."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Malformed("A parameter is given more than once.")
    for name, value in pairs:
        if len(name) > 128 or len(value) > _MAX_VALUE or "\x00" in value:
            raise InvalidInput("A parameter cannot be used.", fields={name[:128]: "is too long"})
    return values
