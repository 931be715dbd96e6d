"""Checkpoints reach their place: when they are due, once each, and again after a failure."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text

from aura_control.db.chain import AuditState
from aura_control.services.checkpoints import Checkpointer, CheckpointPlace
from aura_core.checkpoints import Checkpoint, FileCheckpoints
from aura_core.errors import ProviderUnavailable
from aura_core.wire import ControlKeys
from tests.control.audit.log import OTHER, TENANT, Log


def kept(log: Log, tenant_id: str = TENANT) -> list[Checkpoint]:
    store, place = FileCheckpoints(), log.directory.as_uri()
    found = (store.get(place, name) or b"" for name in store.names(place, f"{tenant_id}/"))
    return [Checkpoint.verify(raw, log.signers) for raw in found]


async def test_five_minutes_after_something_new(log: Log) -> None:
    await log.write(3)
    assert not await log.checkpointer.deliver()
    log.clock.forward(minutes=4, seconds=59)
    assert not await log.checkpointer.deliver()
    log.clock.forward(seconds=1)
    assert await log.checkpointer.deliver()
    assert [one.seq for one in kept(log)] == [5]
    assert [one.seq for one in kept(log, OTHER)] == [2]
    log.clock.forward(hours=5)
    assert not await log.checkpointer.deliver()  # nothing new
    verdict = await log.verify()
    assert (verdict.state, verdict.checkpoints) == (AuditState.WHOLE, 1)


async def test_at_once_after_a_hundred_entries(log: Log) -> None:
    await log.write(97)
    assert not await log.checkpointer.deliver()
    await log.write(1)
    assert await log.checkpointer.deliver()
    await log.write(250)
    assert await log.checkpointer.deliver()
    assert [(one.seq, one.previous) for one in kept(log)] == [(100, 0), (350, 100)]


async def test_what_was_put_off_by_hand_is_due_again_with_the_next_entry(log: Log) -> None:
    for value in ("NULL", "'2099-01-01 00:00:00.000000'"):
        async with log.database.transaction() as tx:
            await tx.session.execute(text(f"UPDATE audit_heads SET checkpoint_due_at = {value}"))
        log.clock.forward(hours=1)
        assert not await log.checkpointer.deliver()
        await log.write(1)
        log.clock.forward(minutes=5)
        assert await log.checkpointer.deliver()
    assert [one.seq for one in kept(log)] == [3, 4]


async def test_a_verdict_warns_of_entries_that_wait_for_a_checkpoint(log: Log) -> None:
    """Whatever the database says of when one is due, and of which was the last."""
    await log.write(3)
    log.clock.forward(minutes=10)
    assert (await log.verify()).warnings == ()
    log.clock.forward(seconds=1)
    (warning,) = (await log.verify()).warnings
    assert "no checkpoint yet" in warning
    assert "2026-03-01T12:00 UTC" in warning
    await log.checkpoint()
    assert (await log.verify()).warnings == ()
    async with log.database.transaction() as tx:
        await tx.session.execute(text("UPDATE audit_heads SET checkpoint_due_at = NULL"))
    log.clock.forward(days=3)
    assert (await log.verify()).warnings == ()  # there is nothing new
    await log.write(1)
    async with log.database.transaction() as tx:
        hidden = "UPDATE audit_heads SET checkpoint_due_at = NULL, checkpoint_next = seq"
        await tx.session.execute(text(hidden))
    log.clock.forward(hours=1)
    verdict = await log.verify()
    assert verdict.state is AuditState.WHOLE
    (warning,) = verdict.warnings
    assert "since entry 5" in warning


async def test_many_tenants_take_pages(log: Log) -> None:
    async with log.database.transaction() as tx:
        for number in range(150):
            await tx.tenants.create(
                tenant_id=f"x{number}", name="", kdf_salt=bytes([number]) * 32, actor="system"
            )
    await log.checkpoint()
    assert len([*log.directory.rglob("*.json")]) == 152
    assert not await log.checkpointer.deliver()


@dataclass
class Failing(FileCheckpoints):
    """A place that breaks before or after it has kept something."""

    before: int = 0
    after: int = 0
    tries: list[bytes] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    both: threading.Event = field(default_factory=threading.Event)
    """Two are kept."""

    def put(self, place: str, name: str, content: bytes) -> None:
        self.tries.append(content)
        if self.before:
            self.before -= 1
            raise ProviderUnavailable("Not reached.")
        super().put(place, name, content)
        self.kept.append(name)
        if len(self.kept) == 2:
            self.both.set()
        if self.after:
            self.after -= 1
            raise ProviderUnavailable("The answer was lost.")


def failing(log: Log, store: Failing, signing: ControlKeys | None = None) -> Checkpointer:
    return Checkpointer(
        database=log.database,
        place=CheckpointPlace(store=store, place=log.directory.as_uri()),
        signing=signing or log.signing,
        clock=log.clock,
        every=0.01,
    )


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_failed_is_asked_for_again_as_it_was(log: Log, when: str) -> None:
    store = Failing(before=2) if when == "before" else Failing(after=2)
    log.clock.forward(minutes=6)
    with pytest.raises(ProviderUnavailable):
        await failing(log, store).deliver()
    await log.write(5)  # what comes meanwhile is the next one's
    log.clock.forward(minutes=6)
    # Another process, after a crash of the first: it asks for the very same.
    assert await failing(log, store).deliver()
    assert len({content for content in store.tries if b'"t1"' in content}) == 1
    await log.checkpoint()
    assert [(one.seq, one.previous) for one in kept(log)] == [(2, 0), (7, 2)]
    assert (await log.verify()).state is AuditState.WHOLE


async def test_two_processes_at_once_leave_the_same(log: Log) -> None:
    await log.write(5)
    log.clock.forward(minutes=6)
    await asyncio.gather(*(log.checkpointer.deliver() for _ in range(4)))
    assert [(one.seq, one.previous) for one in kept(log)] == [(7, 0)]
    assert not await log.checkpointer.deliver()


async def test_a_signing_key_exchanged_between_two_tries_is_no_conflict(log: Log) -> None:
    log.clock.forward(minutes=6)
    with pytest.raises(ProviderUnavailable):
        await failing(log, Failing(after=2)).deliver()
    assert await failing(log, Failing(), ControlKeys.generate()).deliver()
    assert not await log.checkpointer.deliver()
    assert (await log.verify()).state is AuditState.WHOLE


async def test_something_else_under_its_name_is_left_there_and_shows(log: Log) -> None:
    await log.write(5)
    store = FileCheckpoints()
    other = Checkpoint(
        tenant_id=TENANT, seq=7, mac="1" * 64, at="2026-03-01T12:00:00.000000+00:00", previous=0
    )
    store.put(log.directory.as_uri(), other.name, other.sign(log.signing))
    log.clock.forward(minutes=6)
    checkpointer = log.checkpointer
    assert await checkpointer.deliver()
    assert not await checkpointer.deliver()  # and the one tenant does not occupy it
    assert kept(log) == [other]
    assert [one.seq for one in kept(log, OTHER)] == [2]
    assert (await log.verify()).state is AuditState.REWRITTEN


async def test_it_runs_until_it_is_closed_through_failures(log: Log) -> None:
    log.clock.forward(minutes=6)
    store = Failing(before=3)
    checkpointer = failing(log, store)
    running = asyncio.create_task(checkpointer.run())
    assert await asyncio.to_thread(store.both.wait, 30)
    checkpointer.close()
    await running
    assert len(store.tries) >= 4
    assert not await log.checkpointer.deliver()


async def test_a_place_that_refuses_keeps_nothing_and_loses_nothing(
    log: Log, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    log.clock.forward(minutes=6)
    place = CheckpointPlace(store=FileCheckpoints(), place=blocked.as_uri())
    checkpointer = Checkpointer(
        database=log.database, place=place, signing=log.signing, clock=log.clock
    )
    with pytest.raises(Exception, match="cannot be used"):
        await checkpointer.deliver()
    os.unlink(blocked)
    assert await checkpointer.deliver()
