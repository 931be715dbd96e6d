"""The outbox: revisions that only rise, one message for each, one worker at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from aura_control.db.columns import milliseconds
from aura_control.db.engine import Database
from aura_control.db.models import Delivery, DeliveryOp, Instance, InstanceState
from tests.control.db.world import Clock

S = InstanceState


@pytest.fixture
async def joined(database: Database, instance: Instance) -> Instance:
    """An instance that is running and can be reached."""
    await _join(database, instance)
    async with database.transaction() as tx:
        common = {"tenant_id": "t1", "instance_id": instance.id}
        await tx.instances.record_external(**common, external_id="1", push_url="http://127.0.0.1:1")
        for before, after in (
            (S.REQUESTED, S.PROVISIONING),
            (S.PROVISIONING, S.ENROLLING),
            (S.ENROLLING, S.RUNNING),
        ):
            await tx.instances.transition(**common, from_states=[before], to_state=after)
    return instance


async def _join(database: Database, instance: Instance, *, key: bytes = b"k" * 32) -> None:
    async with database.transaction() as tx:
        await tx.instances.issue_join_token(
            tenant_id="t1",
            instance_id=instance.id,
            token_hash="70" * 32,
            expires_at=tx.now + timedelta(minutes=15),
        )
        await tx.instances.record_join(
            instance_id=instance.id,
            token_hash="70" * 32,
            enc_public=key,
            sig_public=b"s" * 32,
            recipient_kid="0123456789abcdef",
            gateway_token="sealed",
        )


async def _desire(database: Database, instance: Instance, subject: str = "c1") -> int:
    async with database.transaction() as tx:
        return await tx.deliveries.desire(
            tenant_id="t1",
            instance_id=instance.id,
            subject=subject,
            op=DeliveryOp.PUT,
            source_revision=7,
        )


async def _get(database: Database, instance: Instance, subject: str = "c1") -> Delivery:
    async with database.reading() as tx:
        row = await tx.deliveries.get(tenant_id="t1", instance_id=instance.id, subject=subject)
    assert row is not None
    return row


async def _store(database: Database, instance: Instance, revision: int, digest: str) -> bool:
    async with database.transaction() as tx:
        return await tx.deliveries.store_message(
            tenant_id="t1",
            instance_id=instance.id,
            subject="c1",
            revision=revision,
            message=b"sealed",
            digest=digest,
        )


async def _ack(database: Database, instance: Instance, revision: int, digest: str) -> bool:
    async with database.transaction() as tx:
        return await tx.deliveries.acked(
            tenant_id="t1",
            instance_id=instance.id,
            subject="c1",
            revision=revision,
            digest=digest,
        )


async def _due(database: Database) -> list[str]:
    async with database.transaction() as tx:
        return [row.subject for row, _ in await tx.deliveries.due()]


async def test_a_revision_rises_with_the_clock_and_without_it(
    database: Database, joined: Instance, clock: Clock
) -> None:
    first = await _desire(database, joined)
    assert first == milliseconds(clock.now)
    assert await asyncio.gather(*(_desire(database, joined) for _ in range(3)))
    assert (await _get(database, joined)).desired_revision == first + 3
    clock.forward(seconds=-60)  # a clock that was set back
    assert await _desire(database, joined) == first + 4
    clock.forward(seconds=3600)
    assert await _desire(database, joined) == milliseconds(clock.now)


async def test_a_revision_has_one_message(database: Database, joined: Instance) -> None:
    revision = await _desire(database, joined)
    assert not await _store(database, joined, revision - 1, "d0")
    assert await _store(database, joined, revision, "d1")
    assert not await _store(database, joined, revision, "d2")
    row = await _get(database, joined)
    assert (row.message, row.digest, row.source_revision) == (b"sealed", "d1", 7)
    newer = await _desire(database, joined)
    row = await _get(database, joined)
    assert (row.desired_revision, row.message, row.digest) == (newer, None, None)


async def test_what_is_acknowledged_is_not_due(database: Database, joined: Instance) -> None:
    revision = await _desire(database, joined)
    await _store(database, joined, revision, "d1")
    assert await _due(database) == ["c1"]
    assert await _ack(database, joined, revision, "d1")
    assert await _ack(database, joined, revision, "d1")  # the same again says the same
    async with database.transaction() as tx:
        await tx.deliveries.again(tenant_id="t1", instance_id=joined.id)
    assert await _due(database) == []
    row = await _get(database, joined)
    assert (row.acked_revision, row.acked_digest) == (revision, "d1")


async def test_an_acknowledgement_of_something_else_does_not_count(
    database: Database, joined: Instance
) -> None:
    revision = await _desire(database, joined)
    await _store(database, joined, revision, "d1")
    assert not await _ack(database, joined, revision, "forged")
    assert not await _ack(database, joined, revision + 1, "d1")
    assert (await _get(database, joined)).acked_revision is None
    newer = await _desire(database, joined)
    assert not await _ack(database, joined, revision, "d1")
    row = await _get(database, joined)
    assert (row.acked_revision, row.desired_revision) == (revision, newer)
    assert not await _ack(database, joined, revision - 1, "d0")
    assert (await _get(database, joined)).acked_revision == revision


async def test_a_delivery_goes_to_one_worker_until_its_lease_ends(
    database: Database, joined: Instance, clock: Clock
) -> None:
    subjects = {f"c{number}" for number in range(6)}
    for subject in subjects:
        await _desire(database, joined, subject)
    taken = await asyncio.gather(*(_due(database) for _ in range(3)))
    assert sorted(subject for some in taken for subject in some) == sorted(subjects)
    assert await _due(database) == []
    clock.forward(seconds=31)
    assert set(await _due(database)) == subjects


async def test_a_failure_is_tried_again_later(
    database: Database, joined: Instance, clock: Clock
) -> None:
    revision = await _desire(database, joined)
    for wrong in (revision - 1, revision):
        async with database.transaction() as tx:
            await tx.deliveries.failed(
                tenant_id="t1",
                instance_id=joined.id,
                subject="c1",
                revision=wrong,
                error="The machine did not answer.",
                retry_at=tx.now + timedelta(minutes=2),
            )
    row = await _get(database, joined)
    assert (row.attempts, row.last_error) == (1, "The machine did not answer.")
    clock.forward(minutes=1)
    assert await _due(database) == []
    async with database.transaction() as tx:
        await tx.deliveries.again(tenant_id="t1", instance_id=joined.id)
    assert await _due(database) == ["c1"]


async def test_only_machines_that_can_take_it_are_due(
    database: Database, instance: Instance
) -> None:
    await _desire(database, instance)
    assert await _due(database) == []


async def test_a_quarantined_machine_gets_nothing(database: Database, joined: Instance) -> None:
    await _desire(database, joined)
    async with database.transaction() as tx:
        assert await tx.instances.quarantine(tenant_id="t1", instance_id=joined.id, reason="x")
        assert not await tx.instances.quarantine(tenant_id="t1", instance_id=joined.id, reason="y")
    assert await _due(database) == []


async def test_all_of_a_machine(database: Database, joined: Instance) -> None:
    for subject in ("policy", "c1"):
        await _desire(database, joined, subject)
    async with database.reading() as tx:
        rows = await tx.deliveries.for_instance(tenant_id="t1", instance_id=joined.id)
        assert [row.subject for row in rows] == ["c1", "policy"]
        assert await tx.deliveries.for_instance(tenant_id="t2", instance_id=joined.id) == []
        entries = await tx.audit.entries(tenant_id="t1", limit=2)
    assert [entry.action for entry in entries] == ["delivery.put_wanted"] * 2


async def test_a_machine_with_new_keys_gets_everything_again(
    database: Database, joined: Instance
) -> None:
    revision = await _desire(database, joined)
    await _store(database, joined, revision, "d1")
    assert await _ack(database, joined, revision, "d1")
    await _join(database, joined, key=b"n" * 32)
    row = await _get(database, joined)
    assert (row.desired_revision, row.message, row.digest) == (revision + 1, None, None)
    assert await _due(database) == ["c1"]


async def test_a_revision_can_be_lifted_above_what_the_machine_holds(
    database: Database, joined: Instance, clock: Clock
) -> None:
    first = await _desire(database, joined)
    async with database.transaction() as tx:
        lifted = await tx.deliveries.desire(
            tenant_id="t1",
            instance_id=joined.id,
            subject="c1",
            op=DeliveryOp.PUT,
            above=first + 10**6,
            attempts=2,
        )
        fresh = await tx.deliveries.desire(
            tenant_id="t1",
            instance_id=joined.id,
            subject="c2",
            op=DeliveryOp.DELETE,
            above=first + 10**7,
        )
    assert lifted == first + 10**6 + 1
    assert fresh == first + 10**7 + 1
    assert (await _get(database, joined)).attempts == 2
    assert await _desire(database, joined) == lifted + 1


async def test_busy_machines_are_left_for_later(
    database: Database, joined: Instance, clock: Clock
) -> None:
    await _desire(database, joined)
    async with database.reading() as tx:
        assert await tx.deliveries.next_attempt() == clock.now
        assert await tx.deliveries.next_attempt(busy=[joined.id]) is None
    async with database.transaction() as tx:
        assert await tx.deliveries.due(busy=[joined.id]) == []
        assert [row.subject for row, _ in await tx.deliveries.due()] == ["c1"]
    async with database.reading() as tx:
        assert await tx.deliveries.next_attempt() == clock.now + timedelta(seconds=30)
