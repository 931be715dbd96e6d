"""The same with a provider that others wrote: it rotates, and ends the family of a token that is
presented twice. A user connects in the browser; then four processes want the expired token, and
one is killed with the answer in its hand."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from aura_control.bootstrap import Owner
from aura_control.settings import load_settings
from tests.e2e.browser import Browser
from tests.e2e.openid_provider import OpenIdProvider, User, openid_provider
from tests.e2e.programs import control_plane
from tests.storms.family_provider import FamilyProvider
from tests.storms.refreshing import World

_PROCESSES = 4
_ACCOUNT = "alice"


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="aura-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def openid(home: Path) -> Iterator[OpenIdProvider]:
    with openid_provider(home / "provider.log") as running:
        yield running


@pytest.fixture
def connected(home: Path, openid: OpenIdProvider) -> World:
    """A user has connected, and the control plane has ended."""
    variables = openid.dropped_into(home / "manifests")
    with (
        control_plane(home, **variables) as plane,
        Browser() as browser,
        plane.client(plane.add_user("alice@aura.test")) as api,
    ):
        connection = User(account=_ACCOUNT, api=api, provider=openid).connect(browser)
    settings = load_settings(data_dir=home / "data", database_url=None)
    nobody = Owner(tenant_id="", user_id="", email="", token="")
    return World(
        settings=settings,
        owner=nobody,
        manifests=home / "manifests",
        provider=FamilyProvider(),
        clients={"OPENID_EXAMPLE_CLIENT_ID": openid.client_id},
        ids={"openid": connection["id"]},
    )


def asked(stormy: World, statement: str) -> list[Any]:
    with closing(sqlite3.connect(stormy.settings.data_dir / "aura.db")) as database, database:
        return database.execute(statement).fetchall()


def expire(stormy: World) -> None:
    """The access token ended a while ago."""
    asked(stormy, "UPDATE integrations SET token_expiry = '2026-01-01 00:00:00.000000'")
    asked(stormy, "UPDATE connection_states SET renew_at = '2026-01-01 00:00:00.000000'")


def refreshes(openid: OpenIdProvider) -> list[int]:
    calls = openid.calls(grant="refresh_token", account=_ACCOUNT)
    return [call["status"] for call in calls]


async def test_one_call_of_four_processes_and_none_for_a_lost_answer(
    connected: World, openid: OpenIdProvider
) -> None:
    expire(connected)
    async with AsyncExitStack() as stack:
        running = await asyncio.gather(
            *(stack.enter_async_context(connected.process()) for _ in range(_PROCESSES))
        )
        told = await asyncio.gather(*(one.wants(25) for one in running))
    assert refreshes(openid) == [200]
    assert list(sum(map(Counter, told), Counter()).values()) == [100]
    assert openid.is_active(openid.issued(_ACCOUNT, "refresh_token")[-1])

    expire(connected)
    async with connected.process(sweeps=True, stops={"openid": "answered"}) as victim:
        assert (await victim.said())["at"] == "answered"
        victim.signal(signal.SIGKILL)
        await victim.ended()
    async with connected.process() as other:
        (reason,) = await other.wants(1)
    assert reason.startswith("ReauthorizationRequired")
    assert "lost" in reason
    assert refreshes(openid) == [200, 200], "presenting the spent token would end the family"
    assert openid.is_active(openid.issued(_ACCOUNT, "access_token")[-1])
    assert asked(connected, "SELECT state FROM connection_states") == [("reauth_required",)]
