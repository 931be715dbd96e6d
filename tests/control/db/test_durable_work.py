"""The durable engine keeps its work in PostgreSQL as it does in SQLite."""

from __future__ import annotations

from aura_control.workflows.engine import Engine, WorkflowState


async def test_work_is_kept_and_found_again(empty_url: str) -> None:
    ran: list[int] = []

    def build() -> Engine:
        engine = Engine(database_url=empty_url, executor_id="one", poll_seconds=0.01)

        async def step(number: int) -> int:
            ran.append(number)
            return number + 1

        async def workflow() -> int:
            return int(await engine.step("second", step, await engine.step("first", step, 1)))

        engine.register("adding", workflow)
        return engine

    for _ in range(2):
        engine = build()
        await engine.launch()
        try:
            await engine.start("adding", "w1")
            assert await engine.wait("w1") == 3
            assert await engine.status("w1") is WorkflowState.SUCCEEDED
        finally:
            await engine.close()
    assert ran == [1, 2]
