"""Processes that say when they are ready, and what they take of the machine's memory."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "Running", "bare_process", "identity", "memory", "running"]

_SECONDS = 30.0
_NOBODY = 1000


@dataclass(frozen=True, kw_only=True)
class Running:
    """A process that has said READY=1."""

    pid: int
    status: str
    """What it said besides: the bare application's address."""
    began: float
    """``time.perf_counter()`` from before it was made."""


def identity() -> tuple[int, int]:
    """The uid and gid that a measured process sees itself and this one as."""
    return (_NOBODY, _NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def _as_somebody() -> list[str]:
    """The daemon gives root up, for a user that may not be able to read this very interpreter.

    Where the benchmark runs as root, both sides get a user namespace in which the same user has
    another number (user_namespaces(7)): files stay readable, and nobody is root.
    """
    if os.geteuid() != 0:
        return []
    return ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--"]


@asynccontextmanager
async def running(
    *arguments: str, environment: Mapping[str, str], directory: Path
) -> AsyncIterator[Running]:
    """Run ``python ARGUMENTS`` and wait for its READY=1 (sd_notify(3)); SIGTERM at the end.

    Readiness is an event of the process's own: asking again and again whether it listens yet would
    measure how often one asks. Raises :class:`RuntimeError` where it ends before it is ready.
    """
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    path = directory / f"notify-{os.urandom(4).hex()}"
    channel.bind(str(path))
    try:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *_as_somebody(),
            sys.executable,
            *arguments,
            env={**os.environ, **environment, "NOTIFY_SOCKET": str(path)},
            stderr=asyncio.subprocess.PIPE,
        )
        said = asyncio.create_task(_first_words(process))
        try:
            status = await _ready(channel, said)
            yield Running(pid=process.pid, status=status, began=began)
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(_SECONDS):
                await process.wait()
            await said
    finally:
        channel.close()
        path.unlink()


async def _first_words(process: asyncio.subprocess.Process) -> str:
    """What the process writes to standard error, until it ends; read so that it never waits."""
    assert process.stderr is not None
    return (await process.stderr.read()).decode(errors="replace")


async def _ready(channel: socket.socket, said: asyncio.Task[str]) -> str:
    loop = asyncio.get_running_loop()
    word = asyncio.create_task(loop.sock_recv(channel, 4096))
    done, _ = await asyncio.wait(
        {word, said}, timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if word not in done:
        word.cancel()
        detail = said.result() if said in done else f"it says nothing for {_SECONDS:g} seconds"
        raise RuntimeError(f"A measured process did not become ready: {detail}")
    lines = word.result().decode().split("\n")
    if lines[0] != "READY=1":
        raise RuntimeError(f"A measured process said something other than READY=1: {lines[0]}")
    return lines[1].removeprefix("STATUS=") if len(lines) > 1 else ""


@asynccontextmanager
async def bare_process(directory: Path, *, relay: Path | None = None) -> AsyncIterator[Running]:
    """The bare application; its ``status`` is ``host:port``."""
    journal = str(directory / f"journal-{os.urandom(4).hex()}")
    options = ["--journal", journal, *(("--relay", str(relay)) if relay else ())]
    async with running(
        "-m", "benchmarks.bare", *options, environment={}, directory=directory
    ) as process:
        yield process


@dataclass(frozen=True, kw_only=True)
class Memory:
    """MiB. ``proportional`` counts a shared page by its share (PSS, proc_pid_smaps(5)); ``None``
    where the kernel does not tell: the daemon's pages are root's alone to look at."""

    resident: float
    proportional: float | None


def memory(pid: int) -> Memory:
    """What a process has in memory now."""
    resident = _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS")
    try:
        proportional = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") / 1024
    except PermissionError:
        proportional = None
    return Memory(resident=resident / 1024, proportional=proportional)


def _kilobytes(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{path} does not tell {name}.")
    return int(found.group(1))
