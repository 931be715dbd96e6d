"""Local machines for tests: real directories and real processes, and none of them left behind."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aura_plugin_local.compute import LocalCompute


@pytest.fixture
def short_root() -> Iterator[Path]:
    """A directory with a short name: paths of Unix sockets have at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="aura-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def compute(short_root: Path) -> AsyncIterator[LocalCompute]:
    made = LocalCompute(short_root / "m")
    yield made
    await asyncio.gather(*(made.destroy(machine.name) for machine in await made.machines()))
    await made.aclose()
