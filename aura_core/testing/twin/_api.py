"""The twin's API: examples, answered to those who bring a live credential in its place."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import JSONResponse, Response

from aura_core.credentials import fill
from aura_core.manifest import AuthMethod, Manifest, Placement, template_variables
from aura_core.testing.twin._calls import Asked

__all__ = ["Example", "carries", "example_answer", "read_examples", "shipped_examples"]

_DAY = re.compile(r"\{\{today(?P<days>[+-][0-9]{1,3})?\}\}")


class Example(BaseModel):
    """One answer of the API. ``path`` may hold ``*`` (one segment) and ``**`` (any number).

    Texts in ``body`` may hold ``{{today}}``, ``{{today+2}}`` and ``{{random}}``; with ``echo`` the
    fields of the request's JSON are in the answer too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "GET"
    host: str
    path: Annotated[str, Field(pattern=r"^/")]
    query: Mapping[str, str] = Field(default_factory=dict)
    """Parameters that the request must have."""
    status: int = 200
    headers: Mapping[str, str] = Field(default_factory=dict)
    body: Any = None
    echo: bool = False


def read_examples(data: bytes | str) -> tuple[Example, ...]:
    """The examples of an ``examples.json``. Raises pydantic's ``ValidationError``."""
    return TypeAdapter(tuple[Example, ...]).validate_json(data)


def shipped_examples(manifest: Manifest) -> tuple[Example, ...]:
    """What the integration's plugin ships as ``examples.json`` beside its tools."""
    if manifest.tools_module is None:
        return ()
    path = files(manifest.tools_module.rpartition(".")[0]) / "examples.json"
    return read_examples(path.read_bytes()) if path.is_file() else ()


def example_answer(examples: Iterable[Example], asked: Asked, now: datetime) -> Response:
    """The first example that fits, or 404 saying that there is none."""
    for example in examples:
        if _fits(example, asked):
            if example.body is None:
                return Response(status_code=example.status, headers=dict(example.headers))
            body = _filled(example.body, now)
            if example.echo and isinstance(body, dict):
                body = {**body, **_told(asked)}
            return JSONResponse(body, status_code=example.status, headers=dict(example.headers))
    words = f"The twin has no example for {asked.method} {asked.host}{asked.path}."
    return JSONResponse({"error": {"code": 404, "message": words}}, status_code=404)


def _fits(example: Example, asked: Asked) -> bool:
    if (example.method, example.host) != (asked.method, asked.host):
        return False
    if not example.query.items() <= asked.query.items():
        return False
    pattern = "".join(
        {"**": ".*", "*": "[^/]+"}.get(part, re.escape(part))
        for part in re.split(r"(\*\*|\*)", example.path)
    )
    return re.fullmatch(pattern, asked.raw_path.partition("?")[0]) is not None


def _told(asked: Asked) -> dict[str, Any]:
    try:
        told = json.loads(asked.body or b"{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _filled(value: Any, now: datetime) -> Any:
    if isinstance(value, str):
        text = _DAY.sub(
            lambda m: (now + timedelta(days=int(m["days"] or 0))).date().isoformat(), value
        )
        return text.replace("{{random}}", secrets.token_hex(8))
    if isinstance(value, Mapping):
        return {name: _filled(inner, now) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(inner, now) for inner in value]
    return value


def carries(asked: Asked, method: AuthMethod, values: Mapping[str, str]) -> bool:
    """Whether the request has the credential in every place that the manifest declares."""
    return bool(method.placements) and all(
        _carried(asked, placement, values) for placement in method.placements
    )


def _carried(asked: Asked, placement: Placement, values: Mapping[str, str]) -> bool:
    if any(name not in values for text in placement.texts for name in template_variables(text)):
        return False
    name = placement.name or ""
    if placement.at == "basic":
        pair = f"{fill(placement.username, values)}:{fill(placement.password, values)}"
        expected = "Basic " + base64.b64encode(pair.encode()).decode()
        return asked.headers.get("authorization") == expected
    expected = fill(placement.format, values)
    if placement.at == "header":
        return asked.headers.get(name.lower()) == expected
    if placement.at == "query":
        return asked.query.get(name) == expected
    if placement.at == "path":
        segments = [unquote(part) for part in asked.raw_path.split("/")]
        return expected in segments or quote(expected, safe=":") in asked.raw_path.split("/")
    return {**asked.form, **asked.document}.get(name) == expected
