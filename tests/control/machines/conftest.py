"""A data directory and a registry for each test, and a control plane that runs on them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from aura_control.bootstrap import ensure_keys
from aura_control.db.schema import migrate
from aura_control.settings import Settings
from aura_core.compute import HostContext
from aura_core.registry import Registry
from tests.control.machines.world import World, open_world

PLUGINS = Path(__file__).parent / "plugin"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "aura.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
async def settings(tmp_path: Path, migrated: Path) -> Settings:
    settings = Settings(
        data_dir=tmp_path / "data",
        public_url="http://127.0.0.1:8700",
        default_compute="scripted",
        default_runtime="quiet",
        heartbeat_seconds=5,
    )
    await ensure_keys(settings)
    shutil.copy(migrated, settings.data_dir / "aura.db")
    return settings


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.syspath_prepend(str(PLUGINS))
    point = EntryPoint(name="notes", value="aura_test_notes", group="aura.plugins")
    return Registry.discover(
        entry_points=[point], context=HostContext(data_dir=tmp_path / "machines")
    )


@pytest.fixture
async def world(settings: Settings, registry: Registry) -> AsyncIterator[World]:
    async with open_world(settings, registry) as world:
        yield world
