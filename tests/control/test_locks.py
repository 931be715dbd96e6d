"""Locks between processes: one holder, freed by its death, and waits that end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aura_control.clients.locks import FileLocks
from aura_control.ports import LockTaken
from aura_core.errors import RefreshFailed

_HOLDER = """
import asyncio, pathlib, sys
from aura_control.clients.locks import FileLocks
async def main():
    async with FileLocks(pathlib.Path(sys.argv[1])).hold("a"):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@asynccontextmanager
async def holder(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that holds the lock ``a``."""
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _HOLDER,
        str(directory),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_killing_the_holder_frees_the_lock(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    async with holder(tmp_path) as process:
        entered = asyncio.Event()

        async def want() -> None:
            async with locks.hold("a"):
                entered.set()

        waiting = asyncio.create_task(want())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(entered.wait(), 0.2)
        process.send_signal(signal.SIGKILL)
        await asyncio.wait_for(waiting, 30)


async def test_a_stopped_holder_keeps_the_lock(tmp_path: Path) -> None:
    async with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RefreshFailed):
            async with FileLocks(tmp_path, wait_seconds=0.2).hold("a"):
                pytest.fail("two holders")


async def test_one_at_a_time_and_names_apart(tmp_path: Path) -> None:
    await _one_at_a_time(lambda: FileLocks(tmp_path))


async def test_a_wait_that_was_given_up_leaves_nothing_locked(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    async with locks.hold("a"):
        waiting = asyncio.create_task(_touch(locks))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(30), locks.hold("a"):
        pass


async def test_who_does_not_want_to_wait_is_told_at_once(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    async with locks.hold("a"):
        with pytest.raises(LockTaken):
            async with locks.hold("a", wait=0):
                pytest.fail("two holders")
    async with locks.hold("a", wait=0):
        pass


async def test_an_error_inside_is_the_callers_own(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with FileLocks(tmp_path).hold("a"):
            raise TimeoutError
    async with asyncio.timeout(30), FileLocks(tmp_path).hold("a"):
        pass


async def _touch(locks: FileLocks) -> None:
    async with locks.hold("a"):
        pass


async def _one_at_a_time(make: Callable[[], FileLocks]) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        async with make().hold("a"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(8)))
    assert most == 1
    async with make().hold("a"), asyncio.timeout(30), make().hold("b"):
        pass
