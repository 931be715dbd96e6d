"""Reading requests: path, query and body, all of it strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request

from aura_control.composition import Services
from aura_control.principal import Principal
from aura_control.problems import Malformed, TooLarge, UnsupportedMediaType
from aura_control.services.tokens import token_hash
from aura_core.errors import AuthenticationRequired, InvalidInput, NotFound

__all__ = [
    "MAX_BODY",
    "Body",
    "Id",
    "authenticate",
    "checked",
    "path_parameter",
    "read_body",
    "read_json",
    "read_query",
    "services_of",
]

MAX_BODY = 64 * 1024
"""Bytes of a request's body."""

_MAX_VALUE = 4096
_LONGEST_TOKEN = 512

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

Id = Annotated[str, StringConstraints(pattern=rf"^{_ID.pattern}$")]
"""An id as it may come from outside."""


class Body(BaseModel):
    """Base of all bodies: no conversion of types, no unknown field, no value in an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


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


async def read_json(request: Request, *, optional: bool = False) -> Any:
    """The body as JSON; None for an absent one where that is allowed."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = await _limited(request)
    if optional and not raw:
        return None
    if media_type != "application/json":
        raise UnsupportedMediaType("The body must be JSON.", hint="Content-Type: application/json")
    try:
        return json.loads(raw.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Malformed("The body is not JSON.") from None


async def read_body(request: Request, model: type[B], *, optional: bool = False) -> B:
    """The body, checked. Raises Malformed, TooLarge, UnsupportedMediaType and InvalidInput."""
    return checked(model, await read_json(request, optional=optional) or {})


def checked(model: type[B], document: Any) -> B:
    """``document`` as ``model``; raises InvalidInput that names every wrong field."""
    if not isinstance(document, Mapping):
        raise InvalidInput("The body must be a JSON object.")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        fields = {
            ".".join(str(part)[:64] for part in line["loc"]): line["msg"]
            for line in error.errors(include_url=False, include_input=False, include_context=False)
        }
        raise InvalidInput("The body cannot be used.", fields=fields) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 §6


async def _limited(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise TooLarge(f"The body is longer than {MAX_BODY} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)
