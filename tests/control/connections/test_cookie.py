"""The transaction cookie where browsers come by https."""

from __future__ import annotations

import pytest

from aura_control.settings import Settings, load_settings
from tests.control.connections.conftest import Control


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return load_settings(data_dir=settings.data_dir, public_url="https://aura.example.org")


async def test_it_is_bound_to_the_host(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
    cookie = left.headers["set-cookie"]
    assert cookie.startswith("__Host-aura-oauth=")
    assert "Secure" in cookie
    assert "HttpOnly" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie


async def test_the_whole_way(control: Control) -> None:
    assert (await control.connect()).status_code == 200
