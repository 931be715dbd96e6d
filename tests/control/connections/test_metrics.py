"""Who may see the numbers: anybody on this machine, the operator's scraper elsewhere."""

from __future__ import annotations

import pytest

from aura_control.settings import Settings, load_settings
from tests.control.connections.conftest import Running

PUBLIC = {"public_url": "https://aura.example.org"}
TOKEN = "scraper-0123456789"


@pytest.mark.parametrize(
    ("given", "header", "status"),
    [
        ({}, None, 200),
        ({"metrics_token": TOKEN}, None, 401),
        ({"metrics_token": TOKEN}, f"Bearer {TOKEN}", 200),
        (PUBLIC, None, 401),
        (PUBLIC, "Bearer ", 401),
        ({**PUBLIC, "metrics_token": TOKEN}, None, 401),
        ({**PUBLIC, "metrics_token": TOKEN}, "Bearer other", 401),
        ({**PUBLIC, "metrics_token": TOKEN}, f"Bearer {TOKEN}", 200),
    ],
)
class TestMetrics:
    @pytest.fixture
    def settings(self, settings: Settings, given: dict[str, str]) -> Settings:
        return load_settings(data_dir=settings.data_dir, **given)

    async def test_are_shown_to_whom_they_should(
        self, running: Running, given: dict[str, str], header: str | None, status: int
    ) -> None:
        headers = {} if header is None else {"Authorization": header}
        async with running() as control, control.client() as scraper:
            answer = await scraper.get("/metrics", headers=headers)
            assert (await scraper.get("/healthz")).status_code == 200
        assert answer.status_code == status
        assert ("aura_connections" in answer.text) == (status == 200)
