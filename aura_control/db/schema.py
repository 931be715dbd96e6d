"""Bringing a database to the tables that this version of Aura knows."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from aura_control.db.columns import Base
from aura_control.db.engine import open_engine
from aura_core.errors import ConfigurationError

__all__ = ["differences", "head", "migrate", "require_current_schema", "version"]

_LOCK = 0x41757261  # "Aura": one migration at a time among all processes of a database


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


async def migrate(url: str) -> None:
    """Applies what is missing, in one transaction; several processes may ask at once.

    Raises ConfigurationError for a database that a newer Aura has migrated.
    """
    engine = open_engine(url)
    try:
        async with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.run_sync(lambda sync: command.upgrade(_config(sync), "head"))
    except CommandError as error:
        raise ConfigurationError(
            "The database was migrated by another version of Aura, which this one does not know.",
            hint="Run that version, or a newer one.",
        ) from error
    finally:
        await engine.dispose()


def head() -> str:
    """The newest migration that this version of Aura has."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("there are no migrations")
    return revision


async def version(url: str) -> str | None:
    """The newest migration that the database has; None for an empty one."""
    engine = open_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )
    finally:
        await engine.dispose()


async def require_current_schema(url: str) -> None:
    """Raises ConfigurationError unless the database has the tables of this version of Aura."""
    found = await version(url)
    if found != head():
        raise ConfigurationError(
            f"The database is at schema {found or 'none'}, and this Aura needs {head()}.",
            hint="Run 'aura up' once, or migrate it.",
        )


async def differences(engine: AsyncEngine) -> list[object]:
    """In what the database's tables differ from the models; empty when they agree."""
    async with engine.connect() as connection:
        return await connection.run_sync(
            lambda sync: list(
                compare_metadata(
                    MigrationContext.configure(sync, opts={"compare_type": True}), Base.metadata
                )
            )
        )
