"""The durable engine: it runs once, repeats what failed, and says nothing that it should not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aura_control.workflows.durable_json import UnexpectedFailure
from aura_control.workflows.engine import Engine, WorkflowState
from aura_control.workflows.retries import Retries, worth_retrying
from aura_core.errors import ComputeError, ConfigurationError, NotFound, ProviderUnavailable

SOON = Retries(attempts=3, interval=0.01, backoff=1.0)


def make(tmp_path: Path) -> Engine:
    return Engine(
        database_url=f"sqlite:///{tmp_path / 'work.db'}", executor_id="one", poll_seconds=0.01
    )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = make(tmp_path)
    try:
        yield engine
    finally:
        await engine.close()


async def test_steps_run_on_the_serving_loop_and_their_results_are_kept(engine: Engine) -> None:
    seen: list[object] = []

    async def double(number: int) -> int:
        seen.append((threading.current_thread(), asyncio.get_running_loop()))
        return number * 2

    async def workflow(number: int) -> dict[str, int]:
        return {"result": await engine.step("double", double, number)}

    engine.register("doubling", workflow)
    await engine.launch()
    await engine.start("doubling", "w1", 21)
    assert await engine.wait("w1") == {"result": 42}
    assert await engine.status("w1") is WorkflowState.SUCCEEDED
    assert seen == [(threading.main_thread(), asyncio.get_running_loop())]


async def test_an_id_starts_once(engine: Engine) -> None:
    runs: list[str] = []
    go = asyncio.Event()

    async def note(text: str) -> str:
        runs.append(text)
        await go.wait()
        return text

    async def workflow(text: str) -> str:
        return str(await engine.step("note", note, text))

    engine.register("noting", workflow)
    await engine.launch()
    await asyncio.gather(*(engine.start("noting", "w1", "first") for _ in range(3)))
    assert await engine.status("w1") is WorkflowState.PENDING
    go.set()
    assert await engine.wait("w1") == "first"
    await engine.start("noting", "w1", "first")
    assert await engine.wait("w1") == "first"
    assert runs == ["first"]
    assert await engine.status("w2") is None
    with pytest.raises(NotFound):
        await engine.wait("w2")


async def test_a_step_is_tried_again(engine: Engine) -> None:
    attempts: list[int] = []

    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ProviderUnavailable("Not yet.")
        return "done"

    async def workflow() -> str:
        return str(await engine.step("flaky", flaky, retries=SOON))

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    assert await engine.wait("w1") == "done"
    assert len(attempts) == 3


async def test_the_last_error_ends_the_workflow(engine: Engine) -> None:
    attempts: list[int] = []

    async def broken() -> None:
        attempts.append(1)
        raise ComputeError("No capacity.", retryable=True, hint="Choose another place.")

    async def workflow() -> None:
        await engine.step("broken", broken, retries=SOON)

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    with pytest.raises(ComputeError, match="No capacity") as raised:
        await engine.wait("w1")
    assert (raised.value.retryable, raised.value.hint) == (True, "Choose another place.")
    assert len(attempts) == 3
    assert await engine.status("w1") is WorkflowState.FAILED


async def test_an_error_that_will_stay_is_not_retried_and_can_be_handled(engine: Engine) -> None:
    attempts: list[int] = []

    async def broken() -> None:
        attempts.append(1)
        raise ConfigurationError("The token is missing.")

    async def workflow() -> str:
        try:
            await engine.step("broken", broken, retries=SOON)
        except ConfigurationError as error:
            return error.message
        return ""

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    assert await engine.wait("w1") == "The token is missing."
    assert len(attempts) == 1


async def test_an_attempt_has_a_timeout(engine: Engine) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def workflow() -> str:
        try:
            await engine.step("never", never, retries=Retries(attempts=1, attempt_seconds=0.01))
        except TimeoutError:
            return "late"
        return ""

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    assert await engine.wait("w1") == "late"


async def test_what_is_not_json_is_refused_and_not_shown(
    engine: Engine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def leak(_: object) -> object:
        return {"token": b"sk-secret"}

    async def workflow(argument: object) -> None:
        await engine.step("leak", leak, argument, retries=Retries(attempts=1))

    engine.register("w", workflow)
    await engine.launch()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(TypeError, match="is a bytes"):
        await engine.start("w", "w1", b"sk-secret")
    await engine.start("w", "w2", "plain")
    with pytest.raises(UnexpectedFailure, match="unexpected TypeError"):
        await engine.wait("w2")
    await engine.close()
    shown = capfd.readouterr()
    assert "sk-secret" not in caplog.text + shown.out + shown.err
    assert shown.out + shown.err == ""


def written(tmp_path: Path) -> list[bytes]:
    return [path.read_bytes() for path in tmp_path.glob("work.db*")]


async def test_the_librarys_own_messages_are_not_shown(
    engine: Engine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def broken() -> None:
        raise ValueError("sk-secret")

    async def workflow() -> None:
        await engine.step("broken", broken, retries=SOON)

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    with pytest.raises(UnexpectedFailure, match="unexpected ValueError"):
        await engine.wait("w1")
    assert "ValueError" in caplog.text
    shown = capfd.readouterr()
    assert "sk-secret" not in caplog.text + shown.out + shown.err
    assert all(b"sk-secret" not in content for content in written(tmp_path))


async def test_a_workflow_is_cancelled(engine: Engine) -> None:
    entered, go = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def first() -> None:
        entered.set()
        await go.wait()

    async def second() -> None:
        ran.append("second")

    async def workflow() -> None:
        await engine.step("first", first)
        await engine.step("second", second)

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    await entered.wait()
    await engine.cancel("w1")
    go.set()
    assert await engine.status("w1") is WorkflowState.CANCELLED
    assert ran == []


async def test_finished_work_is_forgotten(engine: Engine) -> None:
    async def workflow() -> None:
        return None

    engine.register("w", workflow)
    await engine.launch()
    await engine.start("w", "w1")
    await engine.wait("w1")
    now = datetime.now(UTC)
    assert await engine.forget(finished_before=now - timedelta(days=1)) == 0
    assert await engine.forget(finished_before=now + timedelta(days=1)) == 1
    assert await engine.status("w1") is None


async def test_one_engine_at_a_time(engine: Engine, tmp_path: Path) -> None:
    await engine.launch()
    with pytest.raises(RuntimeError, match="has an engine already"):
        await make(tmp_path).launch()
    with pytest.raises(RuntimeError, match="before the engine launches"):
        engine.register("late", engine.launch)
    with pytest.raises(RuntimeError, match="within a workflow"):
        await engine.step("alone", engine.launch)


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (ProviderUnavailable("x"), True),
        (TimeoutError(), True),
        (ComputeError("x", retryable=True), True),
        (ComputeError("x", retryable=False), False),
        (NotFound("x"), False),
        (ConfigurationError("x"), False),
    ],
)
def test_errors_say_whether_to_try_again(error: Exception, worth: bool) -> None:
    assert worth_retrying(error) is worth


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"interval": -1.0}, {"backoff": 0.5}, {"attempt_seconds": 0.0}]
)
def test_retries_check_themselves(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="retries need"):
        Retries(**wrong)  # type: ignore[arg-type]
