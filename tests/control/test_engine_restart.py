"""The durable engine goes on where it was: after closing, and after being killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aura_control.workflows.engine import Engine, WorkflowState


def make(tmp_path: Path, *, drain_seconds: float = 20.0) -> Engine:
    return Engine(
        database_url=f"sqlite:///{tmp_path / 'work.db'}",
        executor_id="one",
        drain_seconds=drain_seconds,
        poll_seconds=0.01,
    )


async def test_closing_leaves_what_is_not_done_to_the_next_launch(tmp_path: Path) -> None:
    ran: list[str] = []
    entered, may_go, between = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first() -> None:
        entered.set()
        await may_go.wait()
        ran.append("first")

    async def second() -> str:
        ran.append("second")
        return "done"

    def build() -> Engine:
        engine = make(tmp_path)

        async def workflow() -> str:
            await engine.step("first", first)
            return str(await engine.step("second", second))

        async def waiting() -> None:
            between.set()
            await engine.sleep(3600)

        engine.register("w", workflow)
        engine.register("waiting", waiting)
        return engine

    engine = build()
    await engine.launch()
    await engine.start("w", "w1")
    await engine.start("waiting", "w2")
    await asyncio.gather(entered.wait(), between.wait())
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    may_go.set()
    await closing
    assert ran == ["first"]

    engine = build()
    await engine.launch()
    try:
        assert await engine.wait("w1") == "done"
        assert ran == ["first", "second"]
        assert await engine.status("w2") is WorkflowState.PENDING
    finally:
        await engine.close()
    assert await asyncio.to_thread(lambda: 1) == 1  # the loop's own threads work again


async def test_closing_interrupts_what_takes_too_long(tmp_path: Path) -> None:
    entered = asyncio.Event()

    async def endless() -> None:
        entered.set()
        await asyncio.Event().wait()

    engine = make(tmp_path, drain_seconds=0.05)

    async def workflow() -> None:
        await engine.step("endless", endless)

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    await entered.wait()
    await asyncio.wait_for(engine.close(), 30)


async def test_closing_that_is_interrupted_closes_all_the_same(tmp_path: Path) -> None:
    """A process has one engine: one that was left half open would be in the way of the next."""
    entered = asyncio.Event()

    async def endless() -> None:
        entered.set()
        await asyncio.Event().wait()

    engine = make(tmp_path)

    async def workflow() -> None:
        await engine.step("endless", endless)

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    await entered.wait()
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    engine = make(tmp_path)
    await engine.launch()
    await engine.close()


PROGRAM = """
    import asyncio, json, os, sys
    from pathlib import Path
    from aura_control.workflows.engine import Engine

    home, crash = Path(sys.argv[1]), sys.argv[2] == "crash"
    engine = Engine(
        database_url=f"sqlite:///{home / 'work.db'}", executor_id="one", poll_seconds=0.01
    )

    async def step(number: int) -> list[int]:
        with (home / "ran").open("a") as log:
            log.write(f"{number}\\n")
            log.flush()
            os.fsync(log.fileno())
        if crash and number == 2:
            print("in step 2", flush=True)
            await asyncio.Event().wait()
        return [number, os.getpid()]

    async def workflow(tag: str) -> list[object]:
        return [tag, *[await engine.step(f"step {n}", step, n) for n in (1, 2, 3, 4)]]

    async def main() -> None:
        engine.register("four steps", workflow)
        await engine.launch()
        if crash:
            await engine.start("four steps", "w1", "tag")
        print(json.dumps(await engine.wait("w1")), flush=True)
        await engine.close()

    asyncio.run(main())
"""


def test_a_killed_process_goes_on_with_the_step_it_died_in(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-W", "error", str(program), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        [*command, "crash"], stdout=subprocess.PIPE, text=True, env=environment
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in step 2\n"
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL

    second = subprocess.run(
        [*command, "resume"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=150,
        check=True,
    )
    tag, *steps = json.loads(second.stdout)
    assert tag == "tag"
    assert [number for number, _ in steps] == [1, 2, 3, 4]
    assert [pid == first.pid for _, pid in steps] == [True, False, False, False]
    assert (tmp_path / "ran").read_text().split() == ["1", "2", "2", "3", "4"]
    assert second.stderr == ""
