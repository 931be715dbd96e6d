"""Tokens that end before the sweep would look again by itself, in real time."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from aura_control.db.columns import utc_now
from tests.control.connections.conftest import Clock, Control


class Running(Clock):
    """The real time."""

    def __call__(self) -> datetime:
        return utc_now()


@pytest.fixture
def clock() -> Clock:
    return Running()


async def test_a_new_token_is_renewed_before_it_ends(control: Control) -> None:
    control.provider.lifetime = 8
    await control.connect()
    first = await control.connection()
    assert first.token_expiry is not None
    control.provider.lifetime = 3600
    renewed = first
    async with asyncio.timeout(30):
        while renewed.revision == first.revision:
            await asyncio.sleep(0.05)
            renewed = await control.connection()
    assert renewed.updated_at < first.token_expiry
