"""The command line that a skill's tools make: one subcommand for each, typed by its schema."""

from __future__ import annotations

import argparse
import json as jsonlib
from collections.abc import Mapping
from typing import Any

from aura_core.tools import Tool

__all__ = ["command_line"]


def command_line(facts: Mapping[str, str], tools: Mapping[str, Tool]) -> argparse.ArgumentParser:
    """The parser. What it parses holds ``_tool``: the tool's name, or ``None`` for ``call``."""
    parser = argparse.ArgumentParser(
        prog=facts.get("command", "skill"),
        description=f"{facts.get('name', facts['provider'])}: answers are JSON.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="TOOL")
    for tool in tools.values():
        text = tool.description.replace("%", "%%")
        command = commands.add_parser(
            tool.name, help=text, description=text, allow_abbrev=False, conflict_handler="resolve"
        )
        command.set_defaults(_tool=tool.name)
        _add_arguments(command, tool.schema())
    if "call" not in tools:
        call = commands.add_parser("call", help="any other call to this provider")
        call.set_defaults(_tool=None)
        call.add_argument("method", metavar="METHOD")
        call.add_argument("path", metavar="PATH", help="with its query, percent-encoded")
        call.add_argument("--json", metavar="BODY", help="JSON text to send")
        call.add_argument("--host", help="another of the provider's hosts; PATH is complete there")
    return parser


def _add_arguments(command: argparse.ArgumentParser, schema: Mapping[str, Any]) -> None:
    for name, prop in schema.get("properties", {}).items():
        kind, items = _kind(prop, schema)
        options: dict[str, Any] = {
            "dest": name,
            "required": name in schema.get("required", ()),
            "default": None,
            "help": str(prop.get("description", "")).replace("%", "%%"),
            "metavar": kind.upper(),
        }
        if kind == "array":
            options |= {"action": "append", "type": _READERS[items], "metavar": items.upper()}
        elif kind == "boolean":
            options |= {"type": _boolean, "nargs": "?", "const": True}
        else:
            options["type"] = _READERS[kind]
        command.add_argument(f"--{name.replace('_', '-')}", **options)


def _kind(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[str, str]:
    """The JSON type of a parameter, and of its items; ``json`` for what has several."""
    while "$ref" in prop:
        prop = schema["$defs"][prop["$ref"].rpartition("/")[2]]
    choices = [part for part in prop.get("anyOf", ()) if part.get("type") != "null"]
    if len(choices) == 1:
        return _kind(choices[0], schema)
    kind = prop.get("type")
    if kind is None and all(isinstance(value, str) for value in prop.get("enum", [None])):
        kind = "string"
    if kind == "array":
        return "array", _kind(prop.get("items", {}), schema)[0].replace("array", "json")
    return (kind if isinstance(kind, str) and kind in _READERS else "json"), "json"


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError("is neither true nor false")
    return text == "true"


def _json(text: str) -> Any:
    try:
        return jsonlib.loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError("is not JSON") from None


_READERS: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": _boolean,
    "object": _json,
    "json": _json,
}
