"""A database of two tenants in which every place holds something sealed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aura_control.settings import load_settings
from tests.control.db.conftest import postgres, sqlite_template, url
from tests.control.keys.sealed_world import SealedWorld, make_keys

__all__ = ["postgres", "sqlite_template", "url", "world"]


@pytest.fixture
async def world(url: str, tmp_path: Path) -> AsyncIterator[SealedWorld]:
    settings = load_settings(data_dir=tmp_path / "data", database_url=url)
    make_keys(settings)
    world = await SealedWorld.make(settings)
    try:
        yield world
    finally:
        await world.close()
