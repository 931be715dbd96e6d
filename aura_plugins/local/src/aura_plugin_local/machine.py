"""``aura-machine-local DIR``: the supervisor of one local machine, what systemd is on a real one.

It detaches itself, so that machines outlive the control plane; the caller waits only until it
stands or has failed. While it runs it holds the lock on ``machine.lock``, which names it.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aura_core.errors import AuraError, ComputeError
from aura_plugin_local import kernel
from aura_plugin_local.applying import empty_run
from aura_plugin_local.identity import ProcessIdentity
from aura_plugin_local.reach import make_reachable
from aura_plugin_local.record import MachineRecord, Places
from aura_plugin_local.services import Service, end_orphans, pids, reap_orphans
from aura_plugin_local.units import read_units

__all__ = ["EXIT_RUNNING", "main"]

_log = logging.getLogger(__name__)

EXIT_RUNNING = 3
"""Exit code: this machine has a supervisor already."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the supervisor. Exit codes: 0 it runs, 3 it ran already, 1 it cannot (see stderr)."""
    parser = argparse.ArgumentParser(prog="aura-machine-local", description=__doc__)
    parser.add_argument("directory", type=Path)
    places = Places(parser.parse_args(arguments).directory.resolve())
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        with os.fdopen(told, "rb") as report:
            code, _, message = report.read().decode().partition(" ")
        if message:
            print(f"aura-machine-local: {message}", file=sys.stderr)  # noqa: T201
        return int(code or 1)
    os.close(told)
    os.setsid()
    # Without os._exit the child would return into whatever called main().
    os._exit(_supervise(places, tell))


def _supervise(places: Places, tell: int) -> int:
    try:
        if not _lock(places):
            os.write(tell, str(EXIT_RUNNING).encode())
            return EXIT_RUNNING
        services = _prepare(places)
    except (AuraError, OSError) as error:
        os.write(tell, f"1 {error}".encode())
        return 1
    os.write(tell, b"0")
    os.close(tell)
    asyncio.run(_run(services))
    end_orphans(())
    _log.info("the machine is off")
    return 0


def _lock(places: Places) -> bool:
    """Take the lock, which the process then holds to its end; false if another one has it."""
    handle = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    os.ftruncate(handle, 0)
    os.write(handle, ProcessIdentity.own().dump())
    return True


def _prepare(places: Places) -> list[Service]:
    """Everything that can fail, before the caller is told that the machine stands."""
    record = MachineRecord.read(places.record)
    if record is None or not record.applied:
        raise ComputeError(f"{places.directory} is no finished machine.", retryable=True)
    _detach(places)
    kernel.adopt_orphans()
    accounts = record.accounts
    if accounts.separate:
        make_reachable(places.directory, accounts.agent)
    units = read_units(places, Path(sys.executable).parent)
    empty_run(places, accounts)
    services: list[Service] = []
    services += (Service(unit, places=places, accounts=accounts, all=services) for unit in units)
    return services


def _detach(places: Places) -> None:
    """Let go of the caller's directory and streams; messages go to the machine's own log."""
    os.chdir("/")
    os.umask(0o022)
    log = os.open(places.logs / "machine.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


async def _run(services: Sequence[Service]) -> None:
    """Until SIGTERM. The agent's services stop first, the daemon last."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGCHLD, lambda: reap_orphans(pids(services)))
    tasks = [asyncio.create_task(service.run(), name=service.unit.name) for service in services]
    await stop.wait()
    for task in reversed(tasks):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
