"""The sweep: what a crash left open first, then what ends soon."""

from __future__ import annotations

import pytest

from aura_control.db.models import ConnectionState
from aura_control.services.sweep import Sweeper
from aura_core.errors import ReauthorizationRequired
from tests.control.connections.conftest import Control, Running
from tests.control.connections.provider import answers, pass_on


async def test_a_process_that_died_in_the_call_is_finished_at_the_next_start(
    running: Running,
) -> None:
    async with running() as control:
        await control.connect()
        connection = await control.connection()
        control.clock.forward(minutes=59)
        async with control.services.database.transaction() as tx:
            # What a killed process leaves: the intent, and a token that the provider has spent.
            assert await tx.integrations.begin_refresh(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                expected_revision=connection.revision,
            )
    async with running() as again:
        await again.services.refresher.refresh(
            tenant_id=connection.tenant_id, connection_id=connection.id
        )
        found = await again.connection()
        assert found.refresh_generation is None
        assert found.revision > connection.revision
        assert found.state is ConnectionState.CONNECTED


async def test_where_a_token_works_once_the_user_is_asked_at_the_next_start(
    running: Running,
) -> None:
    async with running() as control:
        await control.connect("brittle")
        connection = await control.connection("brittle")
        async with control.services.database.transaction() as tx:
            await tx.integrations.begin_refresh(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                expected_revision=connection.revision,
            )
    async with running() as again:
        with pytest.raises(ReauthorizationRequired):
            await again.services.refresher.refresh(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )
        assert again.provider.count("/token") == 1


async def test_the_sweep_renews_before_the_end(control: Control) -> None:
    await control.connect()
    await control.connect("brittle")
    sweeper = sweeper_of(control)
    assert await sweeper.sweep() > 0
    assert control.provider.count("/token") == 2
    control.clock.forward(minutes=55)
    await sweeper.sweep()
    assert control.provider.count("/token") == 4
    assert {line["state"] for line in await control.listed()} == {"connected"}


async def test_the_sweep_says_when_an_access_cannot_be_renewed(control: Control) -> None:
    control.provider.gives_refresh_token = False
    await control.connect()
    sweeper = sweeper_of(control)
    control.clock.forward(minutes=57)
    await sweeper.sweep()
    (line,) = await control.listed()
    assert line["state"] in ("expiring", "reauth_required")
    control.clock.forward(minutes=5)
    await sweeper.sweep()
    (line,) = await control.listed()
    assert line["state"] == "reauth_required"


async def test_one_broken_connection_does_not_stop_the_sweep(control: Control) -> None:
    await control.connect()
    await control.connect("brittle")
    control.clock.forward(minutes=58)
    control.provider.faults.extend([answers(500), pass_on])
    await sweeper_of(control).sweep()
    states = sorted(str(line["state"]) for line in await control.listed())
    assert states == ["connected", "expiring"]


def sweeper_of(control: Control) -> Sweeper:
    services = control.services
    return Sweeper(
        database=services.database,
        refresher=services.refresher,
        clock=services.clock,
    )
