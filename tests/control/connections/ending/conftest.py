"""The control plane on both kinds of database."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_control.bootstrap import ensure_keys
from aura_control.db.schema import migrate
from aura_control.settings import Settings, load_settings
from tests.postgres import Postgres, running_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        server.run("CREATE DATABASE aura")
        asyncio.run(migrate(server.url("aura")))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """A database server's database, or none: the file in the data directory."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(template="aura")


@pytest.fixture
async def settings(tmp_path: Path, database_template: Path, database_url: str | None) -> Settings:
    settings = load_settings(data_dir=tmp_path / "data", database_url=database_url)
    await ensure_keys(settings.model_copy(update={"database_url": None}))
    if database_url is None:
        shutil.copy(database_template, settings.data_dir / "aura.db")
    return settings
