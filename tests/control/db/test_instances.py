"""Instances: transitions, joining, heartbeats, and what their watchers see."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from aura_control.db.engine import Database
from aura_control.db.models import NEXT_STATES, Agent, Instance, InstanceState
from aura_control.db.repositories.enrolment import JoinOutcome
from aura_core.errors import NotFound
from tests.control.db.world import Clock, World

S = InstanceState
TOKEN = "70" * 32


async def _transition(
    database: Database, instance: Instance, to_state: InstanceState, *from_states: InstanceState
) -> bool:
    async with database.transaction() as tx:
        return await tx.instances.transition(
            tenant_id="t1",
            instance_id=instance.id,
            from_states=from_states,
            to_state=to_state,
            reason="test",
        )


async def test_a_transition_is_audited_and_published(
    database: Database, agent: Agent, instance: Instance
) -> None:
    assert await _transition(database, instance, S.PROVISIONING, S.REQUESTED)
    async with database.reading() as tx:
        now = await tx.instances.get(tenant_id="t1", instance_id=instance.id)
        events = await tx.events.after(tenant_id="t1", agent_id=agent.id)
        (entry,) = await tx.audit.entries(tenant_id="t1", agent_id=agent.id, limit=1)
    assert (now.state, now.state_reason) == (S.PROVISIONING, "test")
    assert [event.kind for event in events] == ["instance.requested", "instance.provisioning"]
    assert events[1].data == {"state": "provisioning", "reason": "test"}
    assert events[1].instance_id == instance.id
    assert (entry.action, entry.target) == ("instance.provisioning", f"instance:{instance.id}")


async def test_of_transitions_at_the_same_time_one_happens(
    database: Database, agent: Agent, instance: Instance
) -> None:
    outcomes = await asyncio.gather(
        *(_transition(database, instance, S.PROVISIONING, S.REQUESTED) for _ in range(4))
    )
    assert sorted(outcomes) == [False, False, False, True]
    async with database.reading() as tx:
        events = await tx.events.after(tenant_id="t1", agent_id=agent.id)
    assert len(events) == 2


async def test_a_transition_that_does_not_exist_is_refused(
    database: Database, instance: Instance
) -> None:
    with pytest.raises(ValueError, match="cannot become running from requested"):
        await _transition(database, instance, S.RUNNING, S.REQUESTED, S.ENROLLING)


def test_every_state_is_reached_and_only_destroyed_is_final() -> None:
    assert set(NEXT_STATES) == set(S)
    assert set().union(*NEXT_STATES.values()) == set(S) - {S.REQUESTED}
    assert [state for state, following in NEXT_STATES.items() if not following] == [S.DESTROYED]
    life = (S.REQUESTED, S.PROVISIONING, S.ENROLLING, S.RUNNING, S.SUSPENDED, S.RUNNING)
    assert all(after in NEXT_STATES[before] for before, after in pairwise(life))


async def test_another_tenants_instance_is_not_found(
    database: Database, world: World, instance: Instance
) -> None:
    common = {"tenant_id": "t2", "instance_id": instance.id}
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await tx.instances.get(**common)
        with pytest.raises(NotFound):
            await tx.instances.record_external(**common, external_id="1", push_url=None)
        with pytest.raises(NotFound):
            await tx.instances.issue_join_token(**common, token_hash=TOKEN, expires_at=tx.now)
        with pytest.raises(NotFound):
            await tx.deliveries.desire(**common, subject="policy", op="put")  # type: ignore[arg-type]
        assert not await tx.instances.transition(
            **common, from_states=[S.REQUESTED], to_state=S.PROVISIONING
        )
        assert not await tx.instances.quarantine(**common, reason="x")
        assert not await tx.instances.heartbeat(**common, issued_at=1, health={})
        assert await tx.instances.for_agent(tenant_id="t2", agent_id=instance.agent_id) == []


async def test_what_is_known_of_the_machine(database: Database, instance: Instance) -> None:
    assert instance.machine_name == f"aura-{instance.id}"
    async with database.transaction() as tx:
        await tx.instances.record_composed(
            tenant_id="t1", instance_id=instance.id, user_data_size=900, left_to_daemon=["slack"]
        )
        await tx.instances.record_external(
            tenant_id="t1",
            instance_id=instance.id,
            external_id="srv-1",
            push_url="http://127.0.0.1:1",
        )
        now = await tx.instances.get(tenant_id="t1", instance_id=instance.id)
    assert (now.user_data_size, now.left_to_daemon) == (900, ["slack"])
    assert (now.external_id, now.push_url) == ("srv-1", "http://127.0.0.1:1")


async def test_sweeps_find_what_stands_still(
    database: Database, instance: Instance, clock: Clock
) -> None:
    clock.forward(minutes=5)
    async with database.transaction() as tx:
        due = await tx.instances.due(states=[S.REQUESTED], before=tx.now)
        assert [row.id for row in due] == [instance.id]
        assert await tx.instances.due(states=[S.RUNNING], before=tx.now) == []
        assert await tx.instances.due(states=[S.REQUESTED], before=instance.updated_at) == []
        mine = await tx.instances.for_user(tenant_id="t1", user_id="u1", states=[S.REQUESTED])
        assert [row.id for row in mine] == [instance.id]


async def _join(
    database: Database, instance: Instance, *, key: bytes = b"k" * 32, token: str = TOKEN
) -> JoinOutcome:
    async with database.transaction() as tx:
        return await tx.instances.record_join(
            instance_id=instance.id,
            token_hash=token,
            enc_public=key,
            sig_public=b"s" * 32,
            recipient_kid="0123456789abcdef",
            gateway_token="sealed",
        )


async def _issue(database: Database, instance: Instance) -> None:
    async with database.transaction() as tx:
        await tx.instances.issue_join_token(
            tenant_id="t1",
            instance_id=instance.id,
            token_hash=TOKEN,
            expires_at=tx.now + timedelta(minutes=15),
        )


async def _now(database: Database, instance: Instance) -> Instance:
    async with database.reading() as tx:
        found = await tx.instances.by_id_for_vm(instance.id)
    assert found is not None
    return found


async def test_joining_twice_with_the_same_keys_is_harmless(
    database: Database, instance: Instance, clock: Clock
) -> None:
    assert await _join(database, instance) is JoinOutcome.REFUSED
    await _issue(database, instance)
    assert await _join(database, instance, token="71" * 32) is JoinOutcome.REFUSED
    assert await _join(database, instance) is JoinOutcome.JOINED
    joined = await _now(database, instance)
    assert (joined.enc_public, joined.sig_public) == (b"k" * 32, b"s" * 32)
    assert (joined.recipient_kid, joined.gateway_token) == ("0123456789abcdef", "sealed")
    clock.forward(hours=1)  # the token was spent in time: the machine may lose many answers
    assert await _join(database, instance) is JoinOutcome.REPEATED
    assert (await _now(database, instance)).join_used_at == joined.join_used_at


async def test_other_keys_for_the_same_token_quarantine(
    database: Database, agent: Agent, instance: Instance
) -> None:
    await _issue(database, instance)
    assert await _join(database, instance) is JoinOutcome.JOINED
    assert await _join(database, instance, key=b"e" * 32) is JoinOutcome.QUARANTINED
    assert await _join(database, instance) is JoinOutcome.QUARANTINED
    now = await _now(database, instance)
    assert now.enc_public == b"k" * 32
    assert now.quarantined_reason is not None
    async with database.reading() as tx:
        kinds = [event.kind for event in await tx.events.after(tenant_id="t1", agent_id=agent.id)]
    assert kinds.count("instance.quarantined") == 1


async def test_a_join_token_expires(database: Database, instance: Instance, clock: Clock) -> None:
    await _issue(database, instance)
    clock.forward(minutes=15)
    assert await _join(database, instance) is JoinOutcome.REFUSED


async def test_a_heartbeat_is_not_replayed(
    database: Database, instance: Instance, clock: Clock
) -> None:
    outcomes = []
    for issued_at, load in ((10, 1), (10, 2), (9, 3), (11, 4)):
        async with database.transaction() as tx:
            outcomes.append(
                await tx.instances.heartbeat(
                    tenant_id="t1",
                    instance_id=instance.id,
                    issued_at=issued_at,
                    health={"load": load},
                )
            )
    assert outcomes == [True, False, False, True]
    now = await _now(database, instance)
    assert (now.health, now.last_heartbeat_at) == ({"load": 4}, clock.now)
    clock.forward(minutes=3)
    async with database.reading() as tx:
        silent = await tx.instances.silent(states=[S.REQUESTED], since=tx.now)
    assert [row.id for row in silent] == [instance.id]


async def test_events_are_read_on_from_the_last_one_seen(
    database: Database, agent: Agent, instance: Instance
) -> None:
    async with database.transaction() as tx:
        for number in range(3):
            tx.events.append(
                tenant_id="t1",
                user_id=agent.user_id,
                agent_id=agent.id,
                kind="test",
                data={"number": number},
            )
    async with database.reading() as tx:
        first = await tx.events.after(tenant_id="t1", agent_id=agent.id, limit=2)
        rest = await tx.events.after(tenant_id="t1", agent_id=agent.id, last_id=first[-1].id)
        assert await tx.events.after(tenant_id="t2", agent_id=agent.id) == []
        assert await tx.events.last_id(tenant_id="t1", agent_id=agent.id) == rest[-1].id
        assert await tx.events.last_id(tenant_id="t2", agent_id=agent.id) == 0
    assert [event.data.get("number") for event in (*first, *rest)] == [None, 0, 1, 2]
