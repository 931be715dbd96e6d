"""Local machines as tests look at them from outside."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from aura_plugin_local.compute import LocalCompute

__all__ = ["destroy_all", "follow", "journal", "machines", "processes_of", "until"]


def follow(api: httpx.Client, agent_id: str, *states: str) -> list[tuple[str, dict[str, Any]]]:
    """The agent's events from the first, until it is in one of the states."""
    seen: list[tuple[str, dict[str, Any]]] = []
    path, kind = f"/api/agents/{agent_id}/events", ""
    with api.stream("GET", path, headers={"Last-Event-ID": "0"}, timeout=40) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                seen.append((kind, json.loads(line[6:])))
                if seen[-1][1].get("state") in states:
                    return seen
    raise AssertionError(f"the stream ended: {seen}")


def until(look: Callable[[], Any], seconds: float = 40.0) -> Any:
    """For what a file tells, which no event announces."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def journal(machine: Path) -> dict[str, dict[str, Any]]:
    """The last run of each routine."""
    path = machine / "var/lib/agent/journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {run["routine"]: run for run in map(json.loads, lines)}


def machines(data_dir: Path) -> list[Path]:
    """The directories of the local compute's machines."""
    folder = data_dir / "machines"
    return sorted(folder.glob("aura-*"))


def processes_of(machine: Path) -> list[str]:
    """Command lines and environments that speak of the machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(machine).encode() in command + environment:
            found.append(command.decode())
    return found


def destroy_all(data_dir: Path) -> None:
    """Ends what a test that failed left running."""

    async def destroy() -> None:
        compute = LocalCompute(data_dir / "machines")
        for machine in await compute.machines():
            await compute.destroy(machine.name)

    asyncio.run(destroy())
