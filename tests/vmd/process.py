"""The daemon as a process of its own, as a machine runs it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.vmd.control_plane import Control
from tests.vmd.harness import Machine, write_settings


class DaemonProcess:
    """A started daemon; it says over ``NOTIFY_SOCKET`` when it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, said: asyncio.Queue[str]) -> None:
        self.process = process
        self.said = said

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, number: int) -> tuple[int, str]:
        """Send a signal and wait; the exit code and what went to standard error."""
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> tuple[int, str]:
        async with asyncio.timeout(60):
            _, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, err.decode()


class _Notified(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.said: asyncio.Queue[str] = asyncio.Queue()
        self.closed = asyncio.Event()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.said.put_nowait(data.decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


@asynccontextmanager
async def started(root: Path, **environment: str) -> AsyncIterator[DaemonProcess]:
    """Start ``aura-vmd run`` and wait until it is ready, or has ended."""
    address = root / "n"
    address.unlink(missing_ok=True)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(address))
    address.chmod(0o777)  # the daemon may be another user by the time it is ready
    transport, notified = await asyncio.get_running_loop().create_datagram_endpoint(
        _Notified, sock=channel
    )
    process = await asyncio.create_subprocess_exec(
        *_command(root),
        cwd="/",
        env={
            "AURA_ROOT": str(root),
            "NOTIFY_SOCKET": str(address),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "AURA_VMD_USER": str(DAEMON),
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    daemon = DaemonProcess(process, notified.said)
    ready = asyncio.create_task(notified.said.get())
    ended = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(60):
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            assert ready.result() == "READY=1"
        yield daemon
    finally:
        ready.cancel()
        if process.returncode is None:
            process.kill()
            await process.communicate()
        await ended
        transport.close()
        await notified.closed.wait()


def _command(root: Path) -> list[str]:
    run = [sys.executable, "-m", "aura_vmd.app", "run"]
    if os.geteuid() != 0:
        return run
    # Root's Python may lie where nobody else can read; local machines have the same need.
    return [sys.executable, "-c", _REACHABLE, str(root), str(DAEMON), *run]


_REACHABLE = """
import os, pathlib, sys
from aura_plugin_local.accounts import Account
from aura_plugin_local.reach import make_reachable
root, user, run = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
make_reachable(root, Account(uid=user, gid=user))
os.execv(run[0], run)
"""


def machine(root: Path, control: Control, *, agent: int | None = None) -> Machine:
    """What tests do to a machine, for one whose daemon is a process; the test is its agent,
    unless another user is."""
    agent = os.geteuid() if agent is None else agent
    settings = write_settings(root, control, agent_user=str(agent))
    root.chmod(0o755)
    if os.geteuid() == 0:
        layout = settings.layout
        layout.skills.mkdir(exist_ok=True)
        os.chown(layout.skills.parent, agent, agent)
        for path in (layout.skills, layout.join_token):
            os.chown(path, DAEMON, DAEMON)
        layout.join_token.chmod(0o600)
    return Machine(root=root, settings=settings, control=control)


DAEMON = 61183
AGENT = 61184 if os.geteuid() == 0 else os.geteuid()
"""Whom the agent's processes run as: another user where that can be had."""
