"""Refused calls on their way from the machine to the tenant's audit log."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from aura_vmd.actions import ActionLog
from aura_vmd.refusals import Refusals
from tests.vmd.control_plane import Control, until
from tests.vmd.harness import TOKEN, Machine, Provider, ask, enrolled


class Taking:
    """A control plane that takes refused calls, as the real one does."""

    def __init__(self, control: Control) -> None:
        self.taken: list[dict[str, Any]] = []
        self.lose = 0
        control.answer = self

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        refused = body.get("refused", [])
        last = max((one["seq"] for one in self.taken), default=0)
        self.taken += [one for one in refused if one["seq"] > last]
        if not refused or self.lose:
            self.lose -= bool(refused)
            return {}
        return {"refused_seen": self.taken[-1]["seq"]}


async def test_a_refused_call_is_told_with_its_rule(connected: Machine, provider: Provider) -> None:
    taking = Taking(connected.control)
    await ask(connected, "/v1/mailer/mail/send?secret=query-value", method="POST", data=b"text")
    await ask(connected, "/v1/mailer/mail/1", headers={"Aura-Host": "evil.example"})
    await ask(connected, "/v1/nobody/x")  # not connected: no rule refused it
    await until(lambda: len(taking.taken) == 2, changed=connected.control.changed)
    first, second = taking.taken
    assert (first["method"], first["path"], first["provider"]) == ("POST", "/mail/send", "mailer")
    assert first["rule"] == "scope:email:send"
    assert second["rule"] == "host"
    text = json.dumps(connected.control.heartbeats)
    assert not any(word in text for word in ("query-value", TOKEN, '"text"'))
    # Once taken, it is not told again.
    before = len(connected.control.heartbeats)
    await until(
        lambda: len(connected.control.heartbeats) > before + 1, changed=connected.control.changed
    )
    assert "refused" not in connected.control.heartbeats[-1]


async def test_hanging_up_keeps_no_refusal_out_of_the_audit_log(
    connected: Machine, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking = Taking(connected.control)
    under_way, go_on, append = threading.Event(), threading.Event(), ActionLog._append

    def held(log: ActionLog, lines: bytes) -> None:
        under_way.set()
        go_on.wait()
        append(log, lines)

    monkeypatch.setattr(ActionLog, "_append", held)
    try:
        call = asyncio.create_task(ask(connected, "/v1/mailer/mail/send", method="POST"))
        await asyncio.to_thread(under_way.wait)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        # By this answer the daemon has seen the other caller go.
        assert (await ask(connected, "/v1"))[0] == 200
    finally:
        go_on.set()
    await until(lambda: taking.taken, changed=connected.control.changed)
    assert taking.taken[0]["rule"] == "scope:email:send"
    assert provider.calls == []


async def test_lost_answers_and_restarts_lose_and_repeat_nothing(
    root: Path, control: Control, provider: Provider
) -> None:
    taking = Taking(control)
    taking.lose = 10**6
    async with enrolled(root, control) as machine:
        for number in range(3):
            await ask(machine, f"/v1/mailer/{number}", headers={"Aura-Host": "evil.example"})
    # Nothing is connected here: those have no rule. What a rule refuses waits over the restart.
    assert taking.taken == []
    path = root / "var/lib/aura/refused.jsonl"
    refusals = Refusals(path=path)
    refusals.load()
    for number in range(3):
        await refusals.record({"method": "GET", "path": f"/{number}", "rule": "host"})
    async with enrolled(root, control):
        await until(lambda: len(taking.taken) == 3, changed=control.changed)
    taking.lose = 0
    async with enrolled(root, control):
        await until(lambda: "refused" not in control.heartbeats[-1], changed=control.changed)
    assert [one["path"] for one in taking.taken] == ["/0", "/1", "/2"]
    again = Refusals(path=path)
    again.load()
    assert again.report() == []


async def test_the_latest_hundred_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    refusals = Refusals(path=tmp_path / "r")
    for number in range(130):
        await refusals.record({"path": f"/{number}", "rule": "host"})
    for found in (refusals, Refusals(path=tmp_path / "r")):
        found.load() if found is not refusals else None
        report = found.report()
        assert (len(report), report[0]["path"], report[-1]["path"]) == (100, "/30", "/129")
        assert sum(one["left_out"] for one in report) == 30
        assert report[0]["left_out"] == 30
    seqs = [one["seq"] for one in refusals.report()]
    assert seqs == sorted(set(seqs))


async def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    """Not when the clock goes back, nor when the last lines are lost with the power."""
    clock = [1_000_000]
    refusals = Refusals(path=tmp_path / "r", now_ms=lambda: clock[0])
    await refusals.record({"rule": "host"})
    clock[0] = 5
    await refusals.record({"rule": "host"})
    first, second = refusals.report()
    assert second["seq"] == first["seq"] + 1
    await refusals.taken(second["seq"])
    again = Refusals(path=tmp_path / "r", now_ms=lambda: 2_000_000)
    again.load()
    await again.record({"rule": "host"})
    assert again.report()[0]["seq"] == 2_000_000


@pytest.mark.parametrize("seen", [None, "5", True, -1, 0, {}])
async def test_a_damaged_answer_takes_nothing(tmp_path: Path, seen: Any) -> None:
    refusals = Refusals(path=tmp_path / "r")
    await refusals.record({"rule": "host"})
    await refusals.taken(seen)
    assert len(refusals.report()) == 1


async def test_a_report_is_bounded_in_bytes(tmp_path: Path) -> None:
    refusals = Refusals(path=tmp_path / "r")
    for _ in range(100):
        await refusals.record(
            dict.fromkeys(("method", "provider", "host", "path", "rule"), "\\" * 5000)
        )
    report = refusals.report()
    assert 5 < len(report) < 100
    assert len(json.dumps(report)) <= 25 * 1024


async def test_the_agents_text_is_plain(tmp_path: Path) -> None:
    refusals = Refusals(path=tmp_path / "r")
    await refusals.record({"path": "/\u202e\x1b[2J\n", "rule": "host"})
    assert refusals.report()[0]["path"] == "/??[2J?"


async def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b'\xff\n[]\n{"seq":1}\n{"taken":"x"}\n{"seq":')
    refusals = Refusals(path=tmp_path / "r")
    refusals.load()
    await refusals.record({"rule": "host"})
    again = Refusals(path=tmp_path / "r")
    again.load()
    assert len(again.report()) == 1
