"""A log of its own for each test, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura_control.db.engine import Database
from aura_core.wire import ControlKeys
from tests.control.audit.log import Log
from tests.control.db.conftest import clock, database, postgres, sqlite_template, url, world
from tests.control.db.world import Clock, World

__all__ = ["clock", "database", "postgres", "sqlite_template", "url", "world"]


@pytest.fixture
def log(database: Database, world: World, clock: Clock, tmp_path: Path) -> Log:
    return Log(
        database=database,
        clock=clock,
        directory=tmp_path / "checkpoints",
        signing=ControlKeys.generate(),
    )
