"""Master keys change again and again under four processes that never stop using them."""

from __future__ import annotations

import pytest

from tests.control.keys.beside import rotated_beside
from tests.control.keys.commands import Run, keys
from tests.control.keys.conftest import postgres, sqlite_template, url, world
from tests.control.keys.sealed_world import SealedWorld

__all__ = ["keys", "postgres", "sqlite_template", "url", "world"]

pytestmark = [pytest.mark.storm, pytest.mark.timeout(900)]


async def test_four_processes_miss_no_key(world: SealedWorld, keys: Run) -> None:
    await rotated_beside(world, keys, processes=4, times=10)
