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
    limited_body,
    media_type,
    path_parameter,
    read_query,
    services_of,
)
from aura_control.problems import Malformed, UnsupportedMediaType
from aura_core.errors import InvalidInput

__all__ = [
    "Body",
    "Id",
    "authenticate",
    "checked",
    "limited_body",
    "parse_json",
    "path_parameter",
    "read_body",
    "read_json",
    "read_nothing",
    "services_of",
]

Id = Annotated[str, StringConstraints(pattern=rf"^{ID_PATTERN}$")]
"""An id as it may come from outside."""


class Body(BaseModel):
    """Base of all bodies: no conversion of types, no unknown field, no value in an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


async def read_json(request: Request, *, optional: bool = False) -> Any:
    """The body as JSON; None for an absent one where that is allowed. Routes that take JSON take
    nothing from the query: what is there is refused rather than overlooked."""
    unknown = read_query(request)
    if unknown:
        raise InvalidInput(
            "This takes no query parameters.", fields=dict.fromkeys(unknown, "is not known here")
        )
    raw = await limited_body(request)
    if optional and not raw:
        return None
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("The body must be JSON.", hint="Content-Type: application/json")
    try:
        return parse_json(raw)
    except ValueError:
        raise Malformed("The body is not JSON, or names a key twice.") from None


async def read_body(request: Request, model: type[B], *, optional: bool = False) -> B:
    """The body, checked. Raises Malformed, TooLarge, UnsupportedMediaType and InvalidInput."""
    document = await read_json(request, optional=optional)
    return checked(model, {} if document is None and optional else document)


class _Nothing(Body):
    pass


async def read_nothing(request: Request) -> None:
    """For routes that take neither query nor body: whoever sends one expects something of it."""
    await read_body(request, _Nothing, optional=True)


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


def parse_json(raw: bytes) -> Any:
    """Strict JSON: raises ValueError for what is none, for numbers that JSON does not have, and
    for a key that comes twice, of which two readers could see two values (RFC 8259 §4)."""
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key comes twice")
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259 §6
