"""What every route reads of a request: whose it is, its path, its query, its body's bytes."""

from __future__ import annotations

import re
from typing import cast
from urllib.parse import parse_qsl

from starlette.requests import Request

from aura_control.composition import Services
from aura_control.principal import Principal
from aura_control.problems import Malformed, TooLarge, UnsupportedMediaType
from aura_control.services.tokens import token_hash
from aura_core.errors import AuthenticationRequired, InvalidInput, NotFound

__all__ = [
    "ID_PATTERN",
    "MAX_BODY",
    "authenticate",
    "bearer",
    "limited_body",
    "media_type",
    "path_parameter",
    "read_form",
    "read_query",
    "services_of",
]

MAX_BODY = 64 * 1024
"""Bytes of a request's body."""

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
    token = bearer(request)
    if token:
        async with services_of(request).database.reading() as tx:
            principal = await tx.tokens.authenticate(token_hash(token))
        if principal is not None:
            return principal
    raise AuthenticationRequired(
        "A valid API token is needed.", hint="Send it as: Authorization: Bearer <token>."
    )


def bearer(request: Request) -> str:
    """The bearer token (RFC 6750 §2.1); empty without one that could be."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    usable = scheme.lower() == "bearer" and token.isascii() and len(token) <= _LONGEST_TOKEN
    return token if usable else ""


def path_parameter(request: Request, name: str) -> str:
    """A part of the path that is an id. Raises NotFound for what can be none."""
    value = str(request.path_params[name])
    if not _ID.fullmatch(value):
        raise NotFound("There is no such thing.")
    return value


def read_query(request: Request) -> dict[str, str]:
    """The query's parameters. Raises Malformed and InvalidInput."""
    return _parameters(request.query_params.multi_items())


async def read_form(request: Request) -> dict[str, str]:
    """A form's fields (application/x-www-form-urlencoded), with the query's rules.

    Raises UnsupportedMediaType, TooLarge, Malformed and InvalidInput.
    """
    if media_type(request) != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("The body must be a form.")
    text = (await limited_body(request)).decode("latin-1")
    return _parameters(parse_qsl(text, keep_blank_values=True, errors="replace"))


def _parameters(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Refuses one that comes twice: two readers of it could see two values (RFC 6749 §3.1 forbids
    it too)."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Malformed("A parameter is given more than once.")
    for name, value in pairs:
        if len(name) > 128 or len(value) > _MAX_VALUE or "\x00" in value:
            raise InvalidInput(
                "A parameter cannot be used.", fields={name[:128]: "is too long or holds NUL"}
            )
    return values


def media_type(request: Request) -> str:
    """The type of the body (RFC 9110 §8.3.1), without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def limited_body(request: Request) -> bytes:
    """The body. Raises TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLarge(f"The body is longer than {MAX_BODY} bytes.")
    return bytes(body)
