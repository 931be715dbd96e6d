"""A whole control plane in the test's process: its own database, keys and provider."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from starlette.applications import Starlette

from aura_control.app import Outside, create_app
from aura_control.bootstrap import Owner, add_user, ensure_keys, load_vault, open_database
from aura_control.composition import Services
from aura_control.db.connection import Connection
from aura_control.db.schema import migrate
from aura_control.services.sweep import Sweeper
from aura_control.settings import Settings, load_settings
from aura_control.workflows.operation import Waits
from aura_core.compute import HostContext
from aura_core.registry import Registry
from tests.control.connections.manifests import write_manifests
from tests.control.connections.provider import Provider

Running = Callable[[], AbstractAsyncContextManager["Control"]]


@dataclass
class Clock:
    """The time that a test wants it to be; it starts at the real one, as tokens do."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Control:
    """A running control plane, and its users."""

    app: Starlette
    services: Services
    provider: Provider
    clock: Clock
    ada: Owner
    eve: Owner
    """A user of another tenant."""

    def client(self, owner: Owner | None = None) -> httpx.AsyncClient:
        """A caller, with a user's token or without any."""
        headers = {} if owner is None else {"Authorization": f"Bearer {owner.token}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=self.services.settings.public_url,
            headers=headers,
        )

    async def connect(
        self,
        provider: str = "acme",
        *,
        owner: Owner | None = None,
        account: str = "ada@example.org",
        query: str = "",
    ) -> httpx.Response:
        """The whole way through the browser; the callback's answer."""
        async with self.client(owner or self.ada) as browser:
            left = await browser.get(f"/api/integrations/{provider}{query}")
            assert left.status_code == 302, left.text
            back = self.provider.consent(left.headers["location"], account)
            return await browser.get(f"/api/integrations/{provider}/callback", params=back)

    async def connection(self, provider: str = "acme", owner: Owner | None = None) -> Connection:
        """The connection as the database has it."""
        owner = owner or self.ada
        async with self.services.database.reading() as tx:
            found = await tx.integrations.get(
                tenant_id=owner.tenant_id, user_id=owner.user_id, provider=provider
            )
        assert found is not None
        return found

    async def secrets(self, provider: str = "acme") -> dict[str, str]:
        """What is stored of it, opened."""
        connection = await self.connection(provider)
        async with self.services.database.reading() as tx:
            envelope = await self.services.vault.open_envelope(tx, connection, renewing=True)
        return {name: value.get_secret_value() for name, value in envelope.secrets.items()}

    async def listed(self, owner: Owner | None = None) -> list[dict[str, object]]:
        async with self.client(owner or self.ada) as caller:
            answer = await caller.get("/api/integrations")
        found: list[dict[str, object]] = answer.json()["integrations"]
        return found


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "aura.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def settings(tmp_path: Path, database_template: Path) -> Settings:
    settings = load_settings(data_dir=tmp_path / "data")
    await ensure_keys(settings)
    shutil.copy(database_template, settings.data_dir / "aura.db")
    return settings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    manifests = write_manifests(tmp_path / "manifests")
    context = HostContext(data_dir=tmp_path / "machines")
    return Registry.discover(manifest_dirs=[manifests], entry_points=(), context=context)


@pytest.fixture
async def owners(settings: Settings) -> tuple[Owner, Owner]:
    database = open_database(settings, load_vault(settings))
    try:
        return (
            await add_user(database, tenant_name="Ada", email="ada@example.org"),
            await add_user(database, tenant_name="Eve", email="eve@example.org"),
        )
    finally:
        await database.close()


@pytest.fixture
def running(
    settings: Settings,
    registry: Registry,
    provider: Provider,
    clock: Clock,
    owners: tuple[Owner, Owner],
) -> Running:
    """Starts a control plane on the test's data; again after it has ended."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Control]:
        async def at_once(_seconds: float) -> None:
            await asyncio.sleep(0)

        app = create_app(
            settings,
            registry,
            outside=Outside(
                http=provider.client,
                environment={"ACME_CLIENT_ID": "aura", "ACME_CLIENT_SECRET": "the-client-secret"},
                clock=clock,
                pause=at_once,
                waits=Waits(poll=0.01),
            ),
        )
        async with app.router.lifespan_context(app):
            yield Control(
                app=app,
                services=app.state.services,
                provider=provider,
                clock=clock,
                ada=owners[0],
                eve=owners[1],
            )

    return start


@pytest.fixture(autouse=True)
def sweeps_by_hand(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock stands and jumps, the application's own sweep, woken by a new connection,
    would come between the jump and what a test does then: tests sweep for themselves."""
    if type(clock) is Clock:
        monkeypatch.setattr(Sweeper, "wake", lambda _: None)


@pytest.fixture
async def control(running: Running) -> AsyncIterator[Control]:
    async with running() as control:
        yield control
