"""Values from outside that several routes take."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator
from starlette.requests import Request

from aura_core.errors import NotFound

__all__ = ["JsonObject", "Text", "agent_id_of", "tool_of"]

_AGENT_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TOOL = re.compile(r"[a-z][a-z0-9_]{1,62}", re.ASCII)
_DEEPEST = 32


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("holds a NUL character")
    return value


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    """What every database can keep and give back: JSON has numbers and characters that some
    cannot (RFC 8259 §6, §8.2)."""
    if _depth(value) > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} deep")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, UnicodeError):
        raise ValueError("holds a number or a character that cannot be kept") from None
    if "\\u0000" in text:
        raise ValueError("holds a NUL character")
    return value


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level and deepest <= _DEEPEST:
        deepest += 1
        level = [
            item
            for part in level
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
        ]
    return deepest


Text = Annotated[str, AfterValidator(_text)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]


def agent_id_of(request: Request) -> str:
    """The agent's id in the path. What cannot be one is not found."""
    agent_id = str(request.path_params["id"])
    if not _AGENT_ID.fullmatch(agent_id):
        raise NotFound("There is no such agent.")
    return agent_id


def tool_of(request: Request) -> str:
    """The tool's name in the path. What cannot be one is not found."""
    tool = str(request.path_params["tool"])
    if not _TOOL.fullmatch(tool):
        raise NotFound("There is no such tool.")
    return tool
