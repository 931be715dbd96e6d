"""Google as the host opens it, and a context to call it in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from aura_core.adapter import Context, OAuthClientSettings
from aura_core.api import http_client
from aura_core.registry import Integration, Registry

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def google() -> Integration:
    return Registry.discover().open("google")


@pytest.fixture
async def ctx(google: Integration) -> AsyncIterator[Context]:
    async with http_client() as http:
        yield Context(
            manifest=google.manifest,
            method=google.manifest.auth_method(),
            http=http,
            now=lambda: NOW,
            client=OAuthClientSettings(client_id="cid", client_secret=SecretStr("client-secret")),
        )
