"""Whatever is lost, repeated or forgotten on the way, a machine ends up with what is wanted."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aura_core.registry import Registry
from tests.control.machines.outbox import Outbox

T = TypeVar("T")

FAULTS = st.sampled_from(["", "unreachable", "refuse", "lose", "impostor"])


class Deliveries(RuleBasedStateMachine):
    template: ClassVar[Path]

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="laws"))
        self.runner = asyncio.Runner()
        self.highest: dict[str, int] = {}

        async def make() -> Outbox:
            outbox = Outbox(self.template, self.home)
            await outbox.open()
            return outbox

        self.outbox = self.run(make())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something, after which no machine may hold anything older than before."""
        self.run(work)
        for subject, held in self.outbox.vm.held.items():
            assert held.revision >= self.highest.get(subject, 0)
            self.highest[subject] = held.revision

    @rule(scopes=st.frozensets(st.sampled_from(["notes:read", "notes:write", "api:outbound"])))
    def permit(self, scopes: frozenset[str]) -> None:
        self.watched(self.outbox.permit(scopes))

    @rule(key=st.sampled_from(["key-one", "key-two"]))
    def connect(self, key: str) -> None:
        self.watched(self.outbox.connect(key))

    @precondition(lambda self: self.outbox.key is not None)
    @rule()
    def disconnect(self) -> None:
        self.watched(self.outbox.disconnect())

    @rule(faults=st.lists(FAULTS, max_size=4))
    def push(self, faults: list[str]) -> None:
        self.watched(self.outbox.push(faults))

    @rule(acknowledge=st.booleans())
    def pull(self, acknowledge: bool) -> None:
        self.watched(self.outbox.pull(acknowledge=acknowledge))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The machine finds one of its files damaged and sets it aside."""
        held = self.outbox.vm.held
        if held:
            subject = data.draw(st.sampled_from(sorted(held)))
            del held[subject]
            self.highest.pop(subject, None)

    @rule(subject=st.sampled_from(["policy", "skill:notes-skill"]), by=st.integers(1, 10**7))
    def roll_back(self, subject: str, by: int) -> None:
        self.watched(self.outbox.roll_back(subject, by))

    @rule(seconds=st.integers(-3600, 3600))
    def pass_time(self, seconds: int) -> None:
        self.outbox.time.now += timedelta(seconds=seconds)

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        try:
            self.run(self._converges())
        finally:
            self.run(self.outbox.close())
            self.runner.close()
            shutil.rmtree(self.home)

    async def _converges(self) -> None:
        outbox = self.outbox
        for _ in range(6):
            outbox.time.now += timedelta(hours=2)  # every wait for a retry is over
            await outbox.pull(acknowledge=True)
            await outbox.push([])
        for subject, (desired, acked) in (await outbox.subjects()).items():
            assert acked == desired, subject
            assert outbox.vm.held[subject].revision == desired
        policy = outbox.vm.held["policy"].content
        assert policy is not None
        assert set(policy["scopes"]) == outbox.scopes
        held = outbox.vm.held.get(await outbox.connection_id() or "")
        key = None if held is None or held.content is None else held.content["fields"]["api_key"]
        assert key == outbox.key


def test_deliveries_converge(migrated: Path, registry: Registry) -> None:
    # The fixture of the registry keeps the plugin's folder on the path.
    Deliveries.template = migrated
    machine = Deliveries.TestCase
    machine.settings = settings(
        max_examples=20,
        derandomize=True,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    machine().runTest()
