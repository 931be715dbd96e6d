"""What is needed at once is asked for soon, however far away the next report is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aura_core.wire import ControlKeys, VmKeys
from aura_vmd.conduct import Conduct
from aura_vmd.holdings import Holdings
from aura_vmd.inbox import Identity, Inbox
from aura_vmd.metering import Metering
from aura_vmd.refusals import Refusals
from aura_vmd.skills import Skills
from aura_vmd.store import Store
from aura_vmd.sync import Sync
from tests.vmd.control_plane import INSTANCE, now_ms


class Reports:
    """A control plane that wants nothing and counts; the first report meets a need."""

    def __init__(self) -> None:
        self.count = 0
        self.second = asyncio.Event()
        self.sync: Sync

    async def heartbeat(
        self,
        *,
        revisions: Mapping[str, int],
        health: Mapping[str, Any],
        conduct: Mapping[str, Any],
    ) -> dict[str, Any]:
        self.count += 1
        if self.count == 1:
            self.sync.wake()
        else:
            self.second.set()
        return {}

    async def pull(self, *, revisions: Mapping[str, int]) -> dict[str, Any]:
        return {}

    async def ack(self, acks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {}


async def test_a_need_that_comes_up_during_a_report_is_not_forgotten(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura_vmd.sync._WAKE_PAUSE", 0.01)
    control, keys = ControlKeys.generate(), VmKeys.generate()
    store = Store(directory=root / "sealed", damaged=root / "damaged")
    skills, reports = Skills(directory=root / "skills"), Reports()
    inbox = Inbox(
        identity=Identity(
            instance_id=INSTANCE,
            keys=keys,
            control_public_keys={control.signer_kid: control.sig_public},
        ),
        store=store,
        holdings=Holdings(),
        skills=skills,
        now_ms=now_ms,
    )

    async def report() -> Mapping[str, Any]:
        return {"runtime": {"ready": True}}

    reports.sync = Sync(
        control=reports,
        inbox=inbox,
        store=store,
        skills=skills,
        report=report,
        conduct=Conduct(
            meter=Metering(path=root / "usage.jsonl", holdings=Holdings()),
            refusals=Refusals(path=root / "refused.jsonl"),
        ),
        heartbeat_seconds=3600,
    )
    running = asyncio.create_task(reports.sync.run())
    async with asyncio.timeout(60):
        await reports.second.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
