"""Every change of a connection's state: who causes it, and the one entry that says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from aura_control.db.models import ConnectionState as S
from aura_core.errors import CredentialError
from tests.control.connections.conftest import Control
from tests.control.connections.provider import answer_lost, answers
from tests.control.connections.test_refresh import refresh
from tests.control.connections.test_waiting import actions

Step = Callable[[Control], Awaitable[None]]


async def tried(control: Control) -> None:
    """A refresh, whatever becomes of it."""
    control.clock.forward(minutes=61)
    try:
        await refresh(control)
    except CredentialError:
        return


async def connects(control: Control) -> None:
    assert (await control.connect()).status_code == 200


async def another_account(control: Control) -> None:
    answer = await control.connect(account="somebody@example.org")
    assert answer.status_code == 409
    assert "another account" in answer.text


async def refreshes(control: Control) -> None:
    await tried(control)


async def fails(control: Control) -> None:
    control.provider.faults.extend(answers(503) for _ in range(4))
    await tried(control)
    control.provider.faults.clear()


async def is_lost(control: Control) -> None:
    control.provider.faults.extend(answer_lost(control.provider) for _ in range(4))
    await tried(control)
    control.provider.faults.clear()


async def is_taken_back(control: Control) -> None:
    control.provider.forget_grants()
    await tried(control)


async def validates(control: Control) -> None:
    control.provider.forget_grants()
    async with control.client(control.ada) as caller:
        answer = await caller.post("/api/integrations/acme/validate")
    assert answer.json()["valid"] is False


async def disconnects(control: Control) -> None:
    async with control.client(control.ada) as caller:
        assert (await caller.delete("/api/integrations/acme")).status_code == 200


TO: dict[S, tuple[Step, ...]] = {
    S.CONNECTED: (connects,),
    S.EXPIRING: (connects, fails),
    S.UNCERTAIN: (connects, is_lost),
    S.REAUTH_REQUIRED: (connects, is_taken_back),
    S.DISCONNECTED: (connects, disconnects),
}
"""How a connection comes to be in each state."""

CHANGES: tuple[tuple[S, Step, S, str], ...] = (
    (S.CONNECTED, connects, S.CONNECTED, "connected"),
    (S.CONNECTED, another_account, S.CONNECTED, ""),
    (S.CONNECTED, refreshes, S.CONNECTED, "refreshed"),
    (S.CONNECTED, fails, S.EXPIRING, "expiring"),
    (S.CONNECTED, is_lost, S.UNCERTAIN, "uncertain"),
    (S.CONNECTED, is_taken_back, S.REAUTH_REQUIRED, "reauth_required"),
    (S.CONNECTED, validates, S.REAUTH_REQUIRED, "reauth_required"),
    (S.CONNECTED, disconnects, S.DISCONNECTED, "disconnected"),
    (S.EXPIRING, connects, S.CONNECTED, "connected"),
    (S.EXPIRING, another_account, S.EXPIRING, ""),
    (S.EXPIRING, refreshes, S.CONNECTED, "refreshed"),
    (S.EXPIRING, fails, S.EXPIRING, ""),
    (S.EXPIRING, is_lost, S.UNCERTAIN, "uncertain"),
    (S.EXPIRING, is_taken_back, S.REAUTH_REQUIRED, "reauth_required"),
    (S.EXPIRING, disconnects, S.DISCONNECTED, "disconnected"),
    (S.UNCERTAIN, connects, S.CONNECTED, "connected"),
    (S.UNCERTAIN, refreshes, S.CONNECTED, "refreshed"),
    (S.UNCERTAIN, fails, S.UNCERTAIN, "uncertain"),
    (S.UNCERTAIN, is_taken_back, S.REAUTH_REQUIRED, "reauth_required"),
    (S.UNCERTAIN, disconnects, S.DISCONNECTED, "disconnected"),
    (S.REAUTH_REQUIRED, connects, S.CONNECTED, "connected"),
    (S.REAUTH_REQUIRED, another_account, S.REAUTH_REQUIRED, ""),
    (S.REAUTH_REQUIRED, refreshes, S.REAUTH_REQUIRED, ""),
    (S.REAUTH_REQUIRED, disconnects, S.DISCONNECTED, "disconnected"),
    (S.DISCONNECTED, connects, S.CONNECTED, "connected"),
)


@pytest.mark.parametrize(
    ("before", "cause", "after", "said"),
    [pytest.param(*change, id=f"{change[0]}, {change[1].__name__}") for change in CHANGES],
)
async def test_a_change_of_state(
    control: Control, before: S, cause: Step, after: S, said: str
) -> None:
    for step in TO[before]:
        await step(control)
    was = await control.connection()
    assert was.state is before
    known = await actions(control)
    await cause(control)
    found = await control.connection()
    assert found.state is after
    assert bool(found.reason) == (after in (S.EXPIRING, S.UNCERTAIN, S.REAUTH_REQUIRED))
    new = (await actions(control))[: len(await actions(control)) - len(known)]
    states = {f"connection.{state}" for state in S} | {"connection.refreshed"}
    assert [action for action in new if action in states] == (
        [f"connection.{said}"] if said else []
    )
