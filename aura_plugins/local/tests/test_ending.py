"""Destroying a machine ends everything that ran on it, willing or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from aura_plugin_local.compute import LocalCompute

from aura_plugins.local.tests.machines import (
    agent_unit,
    alive,
    eventually,
    request,
    separate,
    supervisor_pid,
)

STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
root = pathlib.Path(os.environ["AURA_ROOT"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
folder = root / "var/lib/agent/shut"
folder.mkdir(exist_ok=True)
(folder / "file").touch()
folder.chmod(0)
(root / "var/lib/agent/pids").write_text(f"{child.pid} {os.getpid()}")
while True: time.sleep(60)
"""


def pids_in(directory: Path) -> list[int]:
    return [int(word) for word in (directory / "var/lib/agent/pids").read_text().split()]


async def test_destruction_ends_what_does_not_want_to(
    compute: LocalCompute, short_root: Path
) -> None:
    await compute.create(request(agent=STUBBORN, agent_unit=agent_unit(TimeoutStopSec="300ms")))
    directory = short_root / "m/one"
    child, _ = await eventually(lambda: pids_in(directory))
    await compute.destroy("one")
    assert not alive(child)
    assert not directory.exists()


async def test_destruction_finds_what_a_killed_supervisor_left(
    compute: LocalCompute, short_root: Path
) -> None:
    """As root, by its users; otherwise nobody can tell it from what else that person runs."""
    await compute.create(request(agent=STUBBORN))
    directory = short_root / "m/one"
    child, agent = await eventually(lambda: pids_in(directory))
    os.kill(supervisor_pid(directory), signal.SIGKILL)
    await eventually(lambda: not alive(agent))
    assert alive(child)
    await compute.destroy("one")
    assert alive(child) is not separate()
    if not separate():
        os.kill(child, signal.SIGKILL)
    assert not directory.exists()
