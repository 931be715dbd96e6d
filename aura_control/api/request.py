"""Reading requests of the JSON API, bodies above all; strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request

from aura_control.incoming import (
    ID_PATTERN,
    authenticate,
    path_parameter,
    read_query,
    services_of,
)
from aura_control.problems import Malformed, TooLarge, UnsupportedMediaType
from aura_core.errors import InvalidInput

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


Id = Annotated[str, StringConstraints(pattern=rf"^{ID_PATTERN}$")]
"""An id as it may come from outside."""


class Body(BaseModel):
    """Base of all bodies: no conversion of types, no unknown field, no value in an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


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
    document = await read_json(request, optional=optional)
    return checked(model, {} if document is None and optional else document)


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
