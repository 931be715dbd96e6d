"""Hetzner's own description of its API, held against every request and every answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["Operation", "operation"]

_FILE = Path(__file__).with_name("openapi.json")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path: ``template`` as the description writes it."""

    method: str
    template: str
    path_id: int | None

    def wrong_request(self, query: Mapping[str, list[str]], body: Any) -> list[str]:
        """What the description does not allow in this request."""
        described = _described(self.method, self.template)
        known = {
            entry["name"]: entry
            for entry in described.get("parameters", ())
            if entry["in"] == "query"
        }
        wrong = [f"query {name} is not described" for name in query if name not in known]
        for name, entry in known.items():
            if name not in query:
                wrong += [f"query {name} is missing"] if entry.get("required") else []
                continue
            value = _typed(query[name], entry["schema"])
            wrong += _errors(_validator(("query", self.method, self.template, name)), value)
        if "requestBody" in described:
            wrong += _errors(_validator(("body", self.method, self.template, "")), body)
        elif body is not None:
            wrong.append("a body is not described")
        return [f"{self}: {reason}" for reason in wrong]

    def wrong_answer(self, status: int, document: Any) -> list[str]:
        """What the description does not allow in this answer."""
        responses = _described(self.method, self.template)["responses"]
        key = str(status) if str(status) in responses else f"{status // 100}XX"
        if key not in responses:
            return [f"{self}: status {status} is not described"]
        if "content" not in responses[key]:
            return [] if document is None else [f"{self}: an answer {status} has no content"]
        found = _errors(_validator(("answer", self.method, self.template, key)), document)
        return [f"{self} answered {status}: {reason}" for reason in found]

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


def operation(method: str, path: str) -> Operation | None:
    """The operation that a request is for, if the fake knows it."""
    for template, methods in _document()["paths"].items():
        pattern = "(?P<id>[0-9]+)".join(re.escape(part) for part in template.split("{id}"))
        match = re.fullmatch(pattern, path)
        if match and method.lower() in methods:
            given = match.groupdict().get("id")
            path_id = None if given is None else int(given)
            return Operation(method=method, template=template, path_id=path_id)
    return None


@cache
def _document() -> dict[str, Any]:
    return dict(json.loads(_FILE.read_text()))


def _described(method: str, template: str) -> dict[str, Any]:
    return dict(_document()["paths"][template][method.lower()])


@cache
def _validator(of: tuple[str, str, str, str]) -> Draft202012Validator:
    kind, method, template, name = of
    described = _described(method, template)
    if kind == "query":
        schema = next(e["schema"] for e in described["parameters"] if e["name"] == name)
    elif kind == "body":
        schema = described["requestBody"]["content"]["application/json"]["schema"]
    else:
        schema = described["responses"][name]["content"]["application/json"]["schema"]
    return Draft202012Validator(schema)


def _errors(validator: Draft202012Validator, value: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


def _typed(values: list[str], schema: Mapping[str, Any]) -> Any:
    if schema["type"] == "array":
        return [_typed([value], schema["items"]) for value in values]
    (value,) = values
    if schema["type"] == "integer":
        return int(value) if value.isdigit() else value
    if schema["type"] == "boolean":
        return {"true": True, "false": False}.get(value, value)
    return value
