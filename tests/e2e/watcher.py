"""Looks for secrets in all that a control plane and its machines leave behind while they run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import httpx
import psycopg

from aura_control.bootstrap import load_vault, open_database
from aura_control.services.enrolment import join_token, open_gateway_token
from aura_control.settings import load_settings
from tests.canaries import Allowed, Canaries
from tests.e2e.indiscreet_provider import IndiscreetProvider
from tests.e2e.programs import ControlPlane, run_aura

__all__ = ["Watcher", "dumped"]

ALLOWED = (
    Allowed(
        secret="master key *", place="file:data/master-keys", reason="the operator's own key file"
    ),
    Allowed(
        secret="signing key", place="file:data/signing-key", reason="the operator's own key file"
    ),
    Allowed(
        secret="API token",
        place="file:data/session.json",
        reason="'aura up' keeps its owner's token for the command line, for that user only",
    ),
    Allowed(
        secret="client secret",
        place="environment:control plane",
        reason="where the operator gives it to the control plane",
    ),
    Allowed(
        secret="API token",
        place="announced",
        reason="'aura up' shows its owner the token at the start, on standard output only",
    ),
    Allowed(
        secret="*state",
        place="redirect to the provider",
        reason="the browser carries it there and back (RFC 6749 §4.1.1); used up by the callback",
    ),
)


def allowed(databases: dict[str, str]) -> tuple[Allowed, ...]:
    """The salt lies where the rows do."""
    return (
        *ALLOWED,
        Allowed(
            secret="tenant salt",
            place="row:public.tenants" if databases else "file:data/aura.db*",
            reason="no secret by itself: it opens nothing without a master key; gone once shredded",
        ),
    )


def dumped(url: str) -> Iterator[tuple[str, bytes]]:
    """Every row of every table, as the server copies it out (``COPY``, as pg_dump does)."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)"
            " FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert tables
        for (table,) in tables:
            with connection.cursor().copy(f"COPY {table} TO STDOUT".encode()) as rows:
                yield f"row:{table}", b"".join(map(bytes, rows))


class Watcher:
    """Plants what becomes known, keeps what was answered, and looks everywhere."""

    def __init__(
        self, plane: ControlPlane, provider: IndiscreetProvider, databases: dict[str, str]
    ) -> None:
        self.plane, self.provider, self.databases = plane, provider, databases
        self.canaries = Canaries(allowed=allowed(databases))
        self.answers: list[tuple[str, bytes]] = []
        self.settings = load_settings(
            data_dir=plane.data_dir,
            database_url=databases.get("AURA_DATABASE_URL"),
            master_keys=None,
            master_keys_file=None,
        )
        plant = self.canaries.plant
        plant("client secret", provider.client_secret)
        plant("API key", provider.key)
        plant("API token", plane.token)
        for number, line in enumerate(self.settings.keyring_path.read_text().splitlines()):
            plant(f"master key {number}", line.rpartition(":")[2])
        plant("signing key", self.settings.signing_key_path.read_bytes())
        plane.api.event_hooks = {"response": [self._keep]}

    def _keep(self, response: httpx.Response) -> None:
        request = response.request
        place = f"answer:{request.method} {request.url.path}"
        location = response.headers.get("location", "")
        if location.startswith(f"http://{self.provider.host}/authorize"):
            self.answers.append(("redirect to the provider", location.encode()))
        else:
            self.answers.append((place, str(response.headers.raw).encode()))
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            self.answers.append((place, response.read()))

    def run(self, *arguments: str) -> str:
        """A command of the operator's, of which both outputs are looked at."""
        done = run_aura(*arguments, "--data-dir", str(self.plane.data_dir), **self.databases)
        place = f"command:{' '.join(arguments[:2])}"
        self.answers += [(place, (done.stdout + done.stderr).encode())]
        return done.stdout

    async def learn(self) -> None:
        """Plants what the control plane made itself, as it is when opened."""
        vault = load_vault(self.settings)
        database = open_database(self.settings, vault)
        try:
            async with database.reading() as tx:
                for tenant in await tx.tenants.list():
                    if tenant.kdf_salt is not None:
                        self.canaries.plant("tenant salt", tenant.kdf_salt)
                    for instance in await tx.instances.of_tenant(tenant.id):
                        self.canaries.plant("join token", join_token(vault, instance.id))
                        if instance.gateway_token is not None:
                            opened = await open_gateway_token(vault, tx, instance)
                            self.canaries.plant("gateway token", opened.get_secret_value())
        finally:
            await database.close()

    def look(self) -> None:
        """Everywhere: processes, files, logs, answers."""
        asyncio.run(self.learn())
        for name, token in [*self.provider.issued.items()]:
            self.canaries.plant(name, token)
        for number, verifier in enumerate(self.provider.verifiers):
            self.canaries.plant(f"verifier {number}", verifier)
        self.canaries.look_at_processes(self._describe)
        code = [path for path in self.plane.data_dir.rglob("venv*") if path.is_dir()]
        self.canaries.look_at_files("file", self.plane.data_dir, skip=code)
        self.canaries.look("log", self.plane.log.read_bytes())
        for url in self.databases.values():
            for place, rows in dumped(url):
                self.canaries.look(place, rows)
        for place, answer in self.answers:
            self.canaries.look(place, answer)

    def _describe(self, process: int, command: bytes) -> str:
        if os.fsencode(self.plane.data_dir) in command and b"up" in command.split(b"\0"):
            return "control plane"
        return os.fsdecode(command.split(b"\0")[0]).rpartition("/")[2]
