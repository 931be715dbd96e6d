"""Renewing tokens: concurrency, rotation, lost answers, and what each failure does."""

from __future__ import annotations

import asyncio

import pytest

from aura_control.db.models import ConnectionState
from aura_control.services.refresh import fresh_envelope
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import ReauthorizationRequired, RefreshFailed
from tests.control.connections.conftest import Control, Running
from tests.control.connections.provider import (
    Gate,
    answer_lost,
    answers,
    unreachable,
)


async def fresh(control: Control, provider: str = "acme") -> CredentialEnvelope:
    connection = await control.connection(provider)
    return await fresh_envelope(control.services, connection.tenant_id, connection)


async def refresh(control: Control, provider: str = "acme") -> None:
    connection = await control.connection(provider)
    await control.services.refresher.refresh(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )


async def test_a_fresh_token_is_left_alone(control: Control) -> None:
    await control.connect()
    before = await control.secrets()
    envelope = await fresh(control)
    assert envelope.access_token is not None
    assert envelope.access_token.get_secret_value() == before["access_token"]
    assert envelope.refresh_token is None, "what renews is opened only to renew"
    assert control.provider.count("/token") == 1


async def test_an_old_token_is_renewed_and_both_tokens_are_stored(control: Control) -> None:
    await control.connect()
    before, was = await control.secrets(), await control.connection()
    control.clock.forward(minutes=59)
    await fresh(control)
    after, now = await control.secrets(), await control.connection()
    assert after["access_token"] != before["access_token"]
    assert after["refresh_token"] != before["refresh_token"]
    assert all(control.provider.knows(token) for token in after.values())
    assert now.revision > was.revision
    assert now.state is ConnectionState.CONNECTED
    assert now.refresh_generation is None


async def test_the_refresh_token_stays_where_the_provider_sends_none(control: Control) -> None:
    control.provider.rotates = False
    await control.connect()
    before = await control.secrets()
    control.clock.forward(minutes=59)
    await fresh(control)
    after = await control.secrets()
    assert after["refresh_token"] == before["refresh_token"]
    assert after["access_token"] != before["access_token"]


async def test_a_refresh_token_that_ends_with_its_use_is_not_kept(control: Control) -> None:
    control.provider.rotates = False
    await control.connect("ending")
    control.clock.forward(minutes=59)
    await fresh(control, "ending")
    assert set(await control.secrets("ending")) == {"access_token"}


async def test_many_at_once_make_one_call(control: Control) -> None:
    control.provider.grace = False
    await control.connect()
    control.clock.forward(minutes=59)
    envelopes = await asyncio.gather(*(fresh(control) for _ in range(50)))
    assert control.provider.count("/token") == 2
    assert len({e.access_token.get_secret_value() for e in envelopes if e.access_token}) == 1


async def test_a_cancelled_request_does_not_lose_the_answer(control: Control) -> None:
    control.provider.grace = False
    await control.connect()
    control.clock.forward(minutes=59)
    gate = Gate()
    control.provider.faults.append(gate.fault)
    asking = asyncio.create_task(fresh(control))
    await gate.reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.opened.set()
    await control.services.refresher.drain()
    assert all(control.provider.knows(token) for token in (await control.secrets()).values())
    assert (await control.connection()).refresh_generation is None


async def test_shutting_down_waits_for_the_answer(running: Running) -> None:
    async with running() as control:
        control.provider.grace = False
        await control.connect()
        control.clock.forward(minutes=59)
        gate = Gate()
        control.provider.faults.append(gate.fault)
        asking = asyncio.create_task(fresh(control))
        await gate.reached.wait()
        asyncio.get_running_loop().call_later(0.05, gate.opened.set)
    await asyncio.gather(asking, return_exceptions=True)
    async with running() as again:
        assert all(again.provider.knows(token) for token in (await again.secrets()).values())


async def test_a_lost_answer_is_asked_for_again_where_the_provider_bears_it(
    control: Control,
) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    control.provider.faults.append(answer_lost(control.provider))
    await fresh(control)
    assert control.provider.count("/token") == 3
    assert all(control.provider.knows(token) for token in (await control.secrets()).values())


async def test_a_lost_answer_is_never_asked_for_again_elsewhere(control: Control) -> None:
    control.provider.grace = False
    await control.connect("brittle")
    control.clock.forward(minutes=59)
    control.provider.faults.append(answer_lost(control.provider))
    with pytest.raises(ReauthorizationRequired):
        await refresh(control, "brittle")
    connection = await control.connection("brittle")
    assert connection.state is ConnectionState.REAUTH_REQUIRED
    assert "lost" in str(connection.reason)
    assert control.provider.count("/token") == 2, "a second call would end the family"


async def test_an_answer_lost_for_good_leaves_the_intent_open(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    control.provider.faults.extend(answer_lost(control.provider) for _ in range(4))
    with pytest.raises(RefreshFailed):
        await refresh(control)
    connection = await control.connection()
    assert connection.state is ConnectionState.UNCERTAIN
    assert connection.refresh_generation == connection.revision
    assert control.provider.count("/token") == 5, "at once, and 0, 2 and 5 seconds after the loss"
    await refresh(control)
    assert (await control.connection()).state is ConnectionState.CONNECTED


async def test_a_request_that_never_left_is_no_lost_answer(control: Control) -> None:
    await control.connect("brittle")
    before = await control.secrets("brittle")
    control.clock.forward(minutes=59)
    control.provider.faults.append(unreachable)
    with pytest.raises(RefreshFailed):
        await refresh(control, "brittle")
    connection = await control.connection("brittle")
    assert connection.state is ConnectionState.EXPIRING
    assert connection.refresh_generation is None
    assert await control.secrets("brittle") == before
    await refresh(control, "brittle")
    assert (await control.connection("brittle")).state is ConnectionState.CONNECTED


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_a_passing_failure_keeps_the_tokens(control: Control, status: int) -> None:
    await control.connect()
    before = await control.secrets()
    control.clock.forward(minutes=59)
    control.provider.faults.append(answers(status, error="temporarily_unavailable"))
    with pytest.raises(RefreshFailed):
        await refresh(control)
    assert await control.secrets() == before
    assert (await control.connection()).state is ConnectionState.EXPIRING


async def test_a_passing_failure_does_not_matter_while_the_token_lives(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    control.provider.faults.append(answers(503))
    envelope = await fresh(control)
    assert envelope.access_token is not None
    calls = control.provider.count("/token")
    await fresh(control)
    assert control.provider.count("/token") == calls, "it waits before it asks again"
    control.clock.forward(minutes=10)
    await fresh(control)
    assert (await control.connection()).state is ConnectionState.CONNECTED


async def test_a_grant_taken_back_asks_the_user_once(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    control.provider.forget_grants()
    for _ in range(3):
        with pytest.raises(ReauthorizationRequired):
            await fresh(control)
    assert control.provider.count("/token") == 2
    (line,) = await control.listed()
    assert line["state"] == "reauth_required"
    assert line["reason"]


async def test_connecting_again_mends_it(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    control.provider.forget_grants()
    with pytest.raises(ReauthorizationRequired):
        await fresh(control)
    await control.connect()
    assert (await fresh(control)).access_token is not None


async def test_invalid_grant_gives_way_to_newer_tokens(control: Control) -> None:
    await control.connect()
    control.clock.forward(minutes=59)
    gate = Gate()
    control.provider.faults.extend([gate.fault])
    asking = asyncio.create_task(refresh(control))
    await gate.reached.wait()
    control.provider.forget_grants()
    await control.connect()  # the user was faster
    gate.opened.set()
    await asking
    connection = await control.connection()
    assert connection.state is ConnectionState.CONNECTED
    assert all(control.provider.knows(token) for token in (await control.secrets()).values())


async def test_the_operators_mistake_pauses_the_provider(control: Control) -> None:
    await control.connect()
    await control.connect("brittle")
    control.clock.forward(minutes=59)
    control.provider.faults.append(answers(401, error="invalid_client"))
    with pytest.raises(RefreshFailed) as failed:
        await refresh(control)
    assert "operator" in str(failed.value)
    calls = control.provider.count("/token")
    with pytest.raises(RefreshFailed):
        await refresh(control)
    assert control.provider.count("/token") == calls
    connection = await control.connection()
    assert connection.state is ConnectionState.EXPIRING
    assert "operator" in str(connection.reason)
    await refresh(control, "brittle")
    control.clock.forward(minutes=2)
    await refresh(control)
