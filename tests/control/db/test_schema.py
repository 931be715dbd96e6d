"""Migrations make exactly the tables that the models describe."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from sqlalchemy import inspect

from aura_control.db.engine import database_url, open_engine
from aura_control.db.schema import differences, head, migrate, version
from aura_core.errors import ConfigurationError


async def test_migrations_and_models_agree(url: str) -> None:
    engine = open_engine(url)
    try:
        assert await differences(engine) == []
    finally:
        await engine.dispose()


async def test_differences_are_seen(empty_url: str) -> None:
    engine = open_engine(empty_url)
    try:
        assert len(await differences(engine)) > 10
    finally:
        await engine.dispose()


async def test_several_processes_may_migrate_at_once(empty_url: str) -> None:
    assert await version(empty_url) is None
    await asyncio.gather(*(migrate(empty_url) for _ in range(3)))
    assert await version(empty_url) == head()


async def test_integrations_has_exactly_its_columns(url: str) -> None:
    engine = open_engine(url)
    try:
        async with engine.connect() as connection:
            columns = await connection.run_sync(
                lambda sync: [
                    column["name"] for column in inspect(sync).get_columns("integrations")
                ]
            )
    finally:
        await engine.dispose()
    assert columns == [
        "id",
        "user_id",
        "provider",
        "access_token",
        "refresh_token",
        "token_expiry",
        "scopes",
        "metadata",
        "connected_at",
        "created_at",
        "updated_at",
    ]


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "aura.db"
    await migrate(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["mysql://host/name", "sqlite://", "sqlite:///:memory:", "aura"])
def test_a_url_that_cannot_serve_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        database_url(text)


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("sqlite:////var/aura.db", "sqlite+aiosqlite"),
        ("postgres://host/aura", "postgresql+psycopg"),
        ("postgresql+psycopg://host/aura", "postgresql+psycopg"),
    ],
)
def test_the_driver_is_ours_to_choose(text: str, driver: str) -> None:
    assert database_url(text).drivername == driver
