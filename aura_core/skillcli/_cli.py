"""Loading a skill's folder, running what is asked for, and saying how it went."""

from __future__ import annotations

import asyncio
import importlib.util
import json as jsonlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from aura_core import errors
from aura_core.skillcli._api import BrokerApi
from aura_core.skillcli._arguments import command_line
from aura_core.tools import Tool, tools_in

__all__ = ["main"]

_SOCKET = "/run/aura/broker.sock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("-"):
        _say(sys.stderr, "usage: skillcli SKILL_DIR TOOL [--argument value ...]")
        return 2
    try:
        facts, tools = _load(Path(given[0]))
    except (OSError, ValueError, errors.AuraError) as error:
        _say(sys.stderr, f"This folder holds no usable skill: {error}")
        return 1
    parser = command_line(facts, tools)
    try:
        options = vars(parser.parse_args(given[1:]))
    except SystemExit as end:  # argparse has said what is wrong
        return int(end.code or 0)
    api = BrokerApi(
        provider=facts["provider"],
        socket_path=os.environ.get("AURA_BROKER_SOCKET") or _SOCKET,
    )
    try:
        output = asyncio.run(_run(tools, options, api))
    except errors.AuraError as error:
        _say(sys.stderr, _explain(error))
        return 2 if isinstance(error, errors.InvalidInput) else 1
    except Exception as error:  # noqa: BLE001 - a tool's bug is the skill's failure, said in a line
        _say(sys.stderr, f"The tool failed: {type(error).__name__}: {error}")
        return 1
    _say(sys.stdout, output)
    return 0


def _load(folder: Path) -> tuple[dict[str, str], dict[str, Tool]]:
    facts = jsonlib.loads((folder / "skill.json").read_text())
    if not isinstance(facts, dict) or not isinstance(facts.get("provider"), str):
        raise errors.PluginError("skill.json does not name the provider.")
    source = folder / "tools.py"
    if not source.exists():
        return facts, {}
    # By path, because isolated mode (-I) rightly looks for no module beside the script.
    spec = importlib.util.spec_from_file_location("aura_skill_tools", source)
    if spec is None or spec.loader is None:
        raise errors.PluginError("tools.py cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations of a tool's parameters are looked up
    sys.dont_write_bytecode = True  # the folder is not the agent's to write
    spec.loader.exec_module(module)
    return facts, {tool.name: tool for tool in tools_in(module)}


async def _run(tools: Mapping[str, Tool], options: dict[str, Any], api: BrokerApi) -> str:
    name = options.pop("_tool")
    if name is None:
        answer = await api.send(
            options["method"],
            _target(options["path"], options["host"]),
            body=None if options["json"] is None else options["json"].encode(),
            headers={} if options["json"] is None else {"Content-Type": "application/json"},
        )
        return answer.body.decode(errors="replace")
    given = {key: value for key, value in options.items() if value is not None}
    found = await tools[name].call(api, given)
    return TypeAdapter(Any).dump_json(found, fallback=str).decode()


def _target(path: str, host: str | None) -> str:
    if not path.startswith("/"):
        raise errors.InvalidInput("The path begins with a slash.")
    return path if host is None else f"https://{host}{path}"


def _explain(error: errors.AuraError) -> str:
    lines = [error.message]
    if isinstance(error, errors.PermissionDenied):
        lines.append(f"rule: {error.rule}")
    if isinstance(error, errors.InvalidInput):
        lines += [f"{name}: {reason}" for name, reason in error.fields.items()]
    if isinstance(error, errors.RateLimited):
        lines.append(f"Try again in {error.retry_after:g} seconds.")
    if error.hint:
        lines.append(error.hint)
    return "\n".join(lines)


def _say(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
