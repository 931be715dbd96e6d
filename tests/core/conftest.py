"""What the tests of core share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from aura_core.api import http_client
from tests.core.plugins import PluginFolder


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as client:
        yield client


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[PluginFolder]:
    folder = PluginFolder(tmp_path / "site")
    with folder.on_path():
        yield folder
