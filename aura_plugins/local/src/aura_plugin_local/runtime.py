"""``aura-runtime-basic``: the process of the runtime ``basic``, run as the agent's user."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from aura_plugin_local.basic import CONFIG_FILE, READINESS_SOCKET, BasicConfig
from aura_plugin_local.readiness import readiness_server
from aura_plugin_local.routines import Journal, Progress, Runner

__all__ = ["main"]

_EX_CONFIG = 78


def main() -> int:
    """Run until SIGTERM. Exit codes: 0, or 78 for a configuration that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    root = Path(os.environ.get("AURA_ROOT") or "/")
    try:
        config = BasicConfig.model_validate_json((root / CONFIG_FILE.lstrip("/")).read_bytes())
    except (OSError, ValidationError) as error:
        print(f"aura-runtime-basic: {CONFIG_FILE}: {error}", file=sys.stderr)  # noqa: T201
        return _EX_CONFIG
    asyncio.run(_serve(root, config))
    return 0


async def _serve(root: Path, config: BasicConfig) -> None:
    home = root / "var/lib/agent"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    progress = Progress(home / "routines.json", [routine.name for routine in config.routines])
    runner = Runner(skills=home / "skills", journal=Journal(home / "journal.jsonl"), home=home)
    socket = root / READINESS_SOCKET.lstrip("/")
    with readiness_server(socket, lambda: {"ready": True, "routines": progress.summary()}):
        tasks = [
            asyncio.create_task(runner.keep(routine, progress), name=routine.name)
            for routine in config.routines
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
