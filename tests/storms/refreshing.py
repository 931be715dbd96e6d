"""A database with connections at the provider, and the processes that refresh them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from aura_control.bootstrap import Owner, add_user, ensure_keys, load_vault, open_database
from aura_control.db.columns import utc_now
from aura_control.db.connection import Connection, Grant
from aura_control.db.schema import migrate
from aura_control.settings import Settings, load_settings
from aura_core.manifest import load_manifest
from tests.storms.family_provider import Family, FamilyProvider

__all__ = ["Process", "World", "started", "world"]

_TREE = Path(__file__).resolve().parents[2]

_MANIFEST = """
id = "{name}"
name = "{name}"
category = "testing"
hosts = ["127.0.0.1"]
[api]
base_url = "{origin}"
[[auth]]
strategy = "oauth2"
scopes = []
client = {{ id_env = "STORM_CLIENT_ID" }}
[auth.authorization]
url = "{origin}/authorize"
[auth.token]
url = "{origin}/{name}/token"
auth = "none"
[auth.refresh]
rotation = "single_use"
reuse = "{reuse}"
retry_refresh = "{retry}"
"""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A running process; ``pid`` is what the provider sees of it."""

    pid: int
    _process: asyncio.subprocess.Process = field(repr=False)

    async def said(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the process ended"
        return dict(json.loads(line))

    def tell(self, line: str) -> None:
        """Writes it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def wants(self, callers: int) -> dict[str, int]:
        """What so many callers at once were answered: tokens (hashed) and errors."""
        self.tell(str(callers))
        return dict((await self.said())["answers"])

    def sweep(self) -> None:
        """It looks for what is due, now instead of within ten seconds."""
        self.tell("sweep")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ended(self) -> None:
        await self._process.wait()

    async def end(self) -> None:
        """Kills it, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


@dataclass(kw_only=True)
class World:
    """One tenant with a connection for each family of tokens."""

    settings: Settings
    owner: Owner
    manifests: Path
    provider: FamilyProvider
    clients: Mapping[str, str] = field(default_factory=lambda: {"STORM_CLIENT_ID": "aura"})
    """What the operator set for the providers."""
    ids: dict[str, str] = field(default_factory=dict)
    """Families' names and connections' ids."""

    def describe(self, family: Family) -> Path:
        """Writes the manifest of the family's provider: processes read it when they start."""
        path = self.manifests / f"{family.name}.toml"
        path.write_text(
            _MANIFEST.format(
                name=family.name,
                origin=self.provider.origin,
                reuse="grace" if family.bears_reuse else "revokes_family",
                retry="safe" if family.bears_reuse else "never",
            )
        )
        return path

    async def connect(self, family: Family) -> None:
        """A connection whose access token ended a minute ago."""
        method = load_manifest(self.describe(family), allow_loopback_http=True).auth[0]
        vault = load_vault(self.settings)
        database = open_database(self.settings, vault)
        where = {"tenant_id": self.owner.tenant_id, "user_id": self.owner.user_id}
        tokens = family.issue()
        secrets = {name: SecretStr(str(tokens[name])) for name in ("access_token", "refresh_token")}
        try:
            async with database.transaction() as tx:
                slot = await tx.integrations.reserve(**where, provider=family.name)
                sealed = await vault.seal_tokens(
                    tx,
                    tenant_id=self.owner.tenant_id,
                    slot=slot,
                    method=method,
                    secrets=secrets,
                )
                grant = Grant(
                    tokens=sealed,
                    token_expiry=utc_now() - timedelta(minutes=1),
                    scopes=(),
                    auth_method="oauth2",
                )
                made = await tx.integrations.upsert_connected(
                    **where, provider=family.name, slot=slot, grant=grant, actor="system"
                )
        finally:
            await database.close()
        self.ids[family.name] = made.id

    async def found(self) -> dict[str, tuple[Connection, dict[str, str]]]:
        """The connections as they are stored, by family, with their opened secrets."""
        vault = load_vault(self.settings)
        database = open_database(self.settings, vault)
        try:
            async with database.reading() as tx:
                rows = await tx.integrations.list(
                    tenant_id=self.owner.tenant_id, user_id=self.owner.user_id
                )
                opened = {}
                for row in rows:
                    envelope = await vault.open_envelope(tx, row, renewing=True)
                    secrets = {
                        name: value.get_secret_value() for name, value in envelope.secrets.items()
                    }
                    opened[row.provider] = (row, secrets)
                return opened
        finally:
            await database.close()

    @asynccontextmanager
    async def process(
        self,
        *,
        sweeps: bool = False,
        stops: Mapping[str, str] | None = None,
        standby: Process | None = None,
    ) -> AsyncIterator[Process]:
        """A process on this database, started now or ``standby``; ``stops``: the step at which a
        family's renewal stands still. It is killed at the end if it has not ended by then."""
        config = {
            "data_dir": str(self.settings.data_dir),
            "database": self.settings.database,
            "manifests": str(self.manifests),
            "clients": dict(self.clients),
            "sweeps": sweeps,
            "stops": {self.ids[name]: step for name, step in (stops or {}).items()},
        }
        running = standby or await started()
        try:
            running.tell(json.dumps(config))
            assert await running.said() == {"ready": running.pid}
            yield running
        finally:
            await running.end()


async def started() -> Process:
    """A process that has imported everything, which takes a second, and waits to be told what to
    do. Its owner ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.storms.refreshing_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_TREE,
        env={**os.environ, "PYTHONPATH": str(_TREE)},
    )
    return Process(pid=process.pid, _process=process)


async def world(home: Path, database: str | None, provider: FamilyProvider) -> World:
    """A new world in ``home``, on the database with that URL or on SQLite."""
    settings = load_settings(data_dir=home / "data", database_url=database)
    await ensure_keys(settings)
    await migrate(settings.database)
    opened = open_database(settings, load_vault(settings))
    try:
        owner = await add_user(opened, tenant_name="Ada", email="ada@example.org")
    finally:
        await opened.close()
    (home / "manifests").mkdir()
    return World(settings=settings, owner=owner, manifests=home / "manifests", provider=provider)
