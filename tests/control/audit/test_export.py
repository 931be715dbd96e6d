"""An export can be checked by whoever holds the public key, and nothing else."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from aura_control.db.chain import AuditState
from aura_control.services.audit_export import Exported, export_log, verify_export
from aura_core.errors import InvalidInput
from aura_core.wire import ControlKeys
from tests.control.audit.log import TENANT, Log, lay_open

S = AuditState


async def exported(
    log: Log, *, since: datetime | None = None, until: datetime | None = None
) -> tuple[Exported, list[bytes]]:
    lines: list[bytes] = []
    done = await export_log(
        log.database,
        TENANT,
        place=log.place,
        signing=log.signing,
        signers=log.signers,
        write=lines.append,
        since=since,
        until=until,
    )
    return done, lines


async def test_all_that_is_there(log: Log) -> None:
    await log.live()
    done, lines = await exported(log)
    assert (done.state, done.entries) == (S.WHOLE, len(lines) - 2)
    header = json.loads(lines[0])
    assert header["anchor"]["seq"] == json.loads(lines[1])["seq"] - 1
    assert len(header["checkpoints"]) == 4
    async with log.database.reading() as tx:
        rows = await log.rows(tx)
    kept = [{name: row[name] for name in ("seq", "prev", "mac", "entry")} for row in rows]
    assert [json.loads(line) for line in lines[1:-1]] == kept
    verdict = verify_export(lines, log.signers)
    assert (verdict.state, verdict.entries, verdict.checkpoints) == (S.WHOLE, len(rows), 4)


async def test_a_part_by_time(log: Log) -> None:
    await log.live()
    since, until = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 6, 9, 12, 7, tzinfo=UTC)
    done, lines = await exported(log, since=since, until=until)
    times = [json.loads(json.loads(line)["entry"])["at"] for line in lines[1:-1]]
    assert times
    assert done.entries == len(times)
    assert since.isoformat() <= min(times) <= max(times) < until.isoformat()
    assert verify_export(lines, log.signers).state is S.WHOLE
    empty = (await exported(log, since=datetime(2030, 1, 1, tzinfo=UTC)))[1]
    assert verify_export(empty, log.signers).entries == 0


async def test_a_part_is_cut_by_the_order_of_the_chain(log: Log) -> None:
    """A time is when a transaction began, and a longer one ends behind a shorter one."""
    await log.live()
    until = log.clock()
    for minutes in (1, -2, 3):  # the second of these began before ``until``
        log.clock.forward(minutes=minutes)
        async with log.database.transaction() as tx:
            await tx.audit.append(TENANT, action="late", actor="system", target="x")
    done, lines = await exported(log, until=until)
    assert all(b'"late' not in line for line in lines)
    assert (done.state, verify_export(lines, log.signers).state) == (S.WHOLE, S.WHOLE)
    done, lines = await exported(log, since=until + timedelta(seconds=30))
    assert (done.state, done.entries) == (S.WHOLE, 3)
    assert verify_export(lines, log.signers).state is S.WHOLE


Change = Callable[[list[bytes]], Sequence[bytes]]

CHANGES: dict[str, tuple[Change, AuditState]] = {
    "a text": (lambda lines: [*lines[:5], lines[5].replace(b"email", b"nihil"), *lines[6:]],
               S.ALTERED),
    "a mac": (lambda lines: [*lines[:5], lines[5].replace(b'"mac":"', b'"mac":"0'), *lines[6:]],
              S.ALTERED),
    "an entry out": (lambda lines: [*lines[:5], *lines[6:]], S.TRUNCATED),
    "an entry twice": (lambda lines: [*lines[:5], lines[5], *lines[5:]], S.ALTERED),
    "the end": (lambda lines: lines[:-1], S.TRUNCATED),
    "more": (lambda lines: [*lines, lines[5]], S.ALTERED),
    "a checkpoint out": (
        lambda lines: [_with(lines[0], checkpoints=[]), *lines[1:]], S.ALTERED),
    "another tenant": (lambda lines: [_with(lines[0], tenant_id="t2"), *lines[1:]], S.ALTERED),
    "another state": (lambda lines: [*lines[:-1], _ended(lines[-1], state="altered")], S.ALTERED),
    "another signer": (
        lambda lines: [*lines[:-1], _ended(lines[-1], signer_kid="0" * 16)], S.UNVERIFIABLE),
    "another digest": (lambda lines: [*lines[:-1], _ended(lines[-1], digest="0" * 64)], S.ALTERED),
    "a text, and the digest": (
        lambda lines: _fitting([*lines[:5], lines[5].replace(b"email", b"nihil"), *lines[6:]]),
        S.ALTERED),
    "the tail, and the digest": (lambda lines: _fitting([*lines[:5], lines[-1]]), S.ALTERED),
    "no signature": (lambda lines: [*lines[:-1], _ended(lines[-1], sig="")], S.ALTERED),
}  # fmt: skip


def _with(line: bytes, **values: object) -> bytes:
    return _line({**json.loads(line), **values})


def _ended(line: bytes, **values: object) -> bytes:
    return _line({"end": {**json.loads(line)["end"], **values}})


def _fitting(lines: list[bytes]) -> list[bytes]:
    """As somebody without the signing key can make the last line fit."""
    digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return [*lines[:-1], _ended(lines[-1], digest=digest, entries=len(lines) - 2)]


def _line(document: object) -> bytes:
    spelt = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return spelt.encode() + b"\n"


async def test_what_was_changed_in_the_file_shows(log: Log) -> None:
    await log.live()
    _, lines = await exported(log)
    for name, (change, state) in CHANGES.items():
        verdict = verify_export(change([*lines]), log.signers)
        found = {finding.state for finding in verdict.findings}
        assert state in found, (name, verdict)
    dice = random.Random(1)
    whole = b"".join(lines)
    for _ in range(300):
        place = dice.randrange(len(whole))
        other = bytes([dice.choice([c for c in range(33, 127) if c != whole[place]])])
        altered = whole[:place] + other + whole[place + 1 :]
        try:
            verdict = verify_export(altered.splitlines(keepends=True), log.signers)
        except InvalidInput:
            continue  # no export any more
        assert verdict.state is not S.WHOLE, (place, whole[place - 30 : place + 30])


async def test_another_history_than_its_checkpoints_shows(log: Log) -> None:
    """Signed again by somebody who has the signing key now, but not the checkpoints of then."""
    await log.live()
    _, lines = await exported(log)
    strangers = verify_export(lines, {"0" * 16: ControlKeys.generate().sig_public})
    assert strangers.state is S.UNVERIFIABLE
    (seq, *_) = (one["seq"] for one in json.loads(lines[0])["checkpoints"][1:])
    for number, line in enumerate(lines[1:-1], 1):
        if json.loads(line)["seq"] == seq:
            lines[number] = _with(line, mac="0" * 64)
    states = {finding.state for finding in verify_export(lines, log.signers).findings}
    assert S.REWRITTEN in states


async def test_a_log_that_does_not_verify_is_exported_as_such(log: Log) -> None:
    await log.live()
    await lay_open(log.database)
    async with log.database.transaction() as tx:
        await tx.session.execute(
            text("UPDATE audit_logs SET entry = replace(entry, 'email', 'nihil') WHERE seq = 70")
        )
    done, lines = await exported(log)
    assert done.state is S.ALTERED
    assert verify_export(lines, log.signers).state is S.ALTERED


@pytest.mark.parametrize("raw", [b"", b"{}\n", b"[]\n", b"\xff\n", b'{"kind":"other","v":1}\n'])
def test_what_is_no_export_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        verify_export([raw], {})
