"""What storms share: a provider, and a world on either database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres, running_postgres
from tests.storms.family_provider import FamilyProvider, family_provider
from tests.storms.refreshing import World, world


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
async def provider() -> AsyncIterator[FamilyProvider]:
    async with family_provider() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def stormy(request: pytest.FixtureRequest, tmp_path: Path, provider: FamilyProvider) -> World:
    """A world on a database of its own."""
    url = None
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create()
    return await world(tmp_path, url, provider)
