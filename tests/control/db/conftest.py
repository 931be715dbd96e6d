"""A database of its own for each test, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aura_control.db.engine import Database
from aura_control.db.models import Agent, Instance
from aura_control.db.schema import migrate
from aura_control.services.audit_keys import AuditKeys
from aura_core.crypto import Keyring
from tests.control.db.world import Clock, World
from tests.postgres import Postgres, running_postgres

_RING = Keyring.generate()
audit_key = AuditKeys(lambda: _RING)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        server.run("CREATE DATABASE aura")
        asyncio.run(migrate(server.url("aura")))
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "aura.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aura.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(template=None)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database."""
    if request.param == "sqlite":
        path = tmp_path / "aura.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(template="aura")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(url: str, clock: Clock) -> AsyncIterator[Database]:
    database = Database.open(url, audit_key=audit_key, clock=clock)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def world(database: Database) -> World:
    async with database.transaction() as tx:
        for number in ("1", "2"):
            await tx.tenants.create(
                tenant_id=f"t{number}", name="Tenant", kdf_salt=bytes(32), actor="system"
            )
            await tx.users.create(
                tenant_id=f"t{number}",
                user_id=f"u{number}",
                email=f"u{number}@example.org",
                actor="system",
            )
    return World()


@pytest.fixture
async def agent(database: Database, world: World) -> Agent:
    async with database.transaction() as tx:
        return await tx.agents.create(
            tenant_id=world.tenant_id,
            user_id=world.user_id,
            name="Ada",
            compute="local",
            runtime="basic",
            persona={},
            permissions={"scopes": ["email:read"]},
            config={},
            actor="user:u1",
        )


@pytest.fixture
async def instance(database: Database, world: World, agent: Agent) -> Instance:
    async with database.transaction() as tx:
        return await tx.instances.create(
            tenant_id=world.tenant_id, agent_id=agent.id, compute="local", actor="user:u1"
        )
