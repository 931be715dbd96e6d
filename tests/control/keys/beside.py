"""Keys are rotated and retired while other processes go on sealing and opening."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from aura_control.db.repositories.sealed import CONNECTIONS
from tests.control.keys.commands import Run, environment
from tests.control.keys.sealed_world import PROVIDERS, SealedWorld
from tests.e2e.programs import own_environment


@contextmanager
def busy(world: SealedWorld, provider: str) -> Iterator[subprocess.Popen[str]]:
    """A process that does both without a pause, with a connection of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.control.keys.busy", provider],
        env=own_environment(**environment(world)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def rotated_beside(world: SealedWorld, keys: Run, *, processes: int, times: int = 1) -> None:
    """Rotates and retires ``times`` keys beside as many processes: none of them misses anything."""
    with ExitStack() as stack:
        workers = [stack.enter_context(busy(world, f"own{n}")) for n in range(processes)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for number in range(1, times + 1):
            await keys("rotate")
            await keys("rotate", "--resume")
            await keys("retire", f"m{number}")
        for worker in workers:
            rounds, _ = await asyncio.to_thread(worker.communicate, timeout=120)
            assert worker.returncode == 0
            assert int(rounds) > 0
    await world.vault.reload()
    assert len(await world.everything()) > 0
    assert await world.whole()
    counted = (await world.counts())[CONNECTIONS]
    assert counted == {f"m{times + 1}": 2 * len(PROVIDERS) + processes}
