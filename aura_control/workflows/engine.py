"""The durable engine: workflows that go on where they were when their process died.

This module alone knows DBOS, which is one to a process: its registry and its instance are globals
of the library. An :class:`Engine` fills them when it launches and empties them when it closes, so
that a process has one engine at a time and a test can have many, one after the other.

What a workflow is given and what its steps return is written down as JSON (``durable_json``): ids
and facts, never a secret. A step may run again when a process dies while it runs, so a step is
repeatable: it records what it is about to ask for and adopts what it finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from dbos import DBOS, DBOSConfig, Serializer, SetWorkflowID, WorkflowStatusString
from dbos import error as dbos_errors
from sqlalchemy import Engine as SqlEngine

from aura_control.db.engine import database_url
from aura_control.workflows.durable_json import decode, encode
from aura_control.workflows.durable_store import close_store, open_store
from aura_control.workflows.engine_log import silence
from aura_control.workflows.retries import Retries, worth_retrying
from aura_core.errors import NotFound

__all__ = ["APPLICATION_VERSION", "Engine", "WorkflowState"]

APPLICATION_VERSION = "aura-1"
"""Work is resumed by processes of the same version only. The library would take a hash of the
source, and any change of code would leave work lying for ever: raise it by hand, with a migration
of what is pending, when a workflow's steps change their order."""

Workflow = Callable[..., Awaitable[Any]]


class WorkflowState(StrEnum):
    """How a workflow is."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_STATES = {
    WorkflowStatusString.SUCCESS.value: WorkflowState.SUCCEEDED,
    WorkflowStatusString.ERROR.value: WorkflowState.FAILED,
    WorkflowStatusString.MAX_RECOVERY_ATTEMPTS_EXCEEDED.value: WorkflowState.FAILED,
    WorkflowStatusString.CANCELLED.value: WorkflowState.CANCELLED,
}


class _JsonSerializer(Serializer):
    """JSON only. The library's own would pickle, and log what it cannot pickle."""

    def serialize(self, data: Any) -> str:
        if isinstance(data, dbos_errors.DBOSMaxStepRetriesExceeded):
            data = data.errors[-1]
        return encode(data)

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805 - named so by the library
        return decode(serialized_data)

    def name(self) -> str:
        return "aura_json"


class Engine:
    """Registers workflows, starts them, and resumes what an earlier process left.

    ``database_url`` is where the work is written down: a SQLite file of its own, or the control
    plane's PostgreSQL (schema ``dbos``). ``executor_id`` is stable for a process across its
    restarts: pending work goes on where this id launches again. Two processes that live at the
    same time need two ids, or they would take each other's work.
    """

    _launched: ClassVar[Engine | None] = None

    def __init__(
        self,
        *,
        database_url: str,
        executor_id: str,
        application_version: str = APPLICATION_VERSION,
        threads: int = 16,
        drain_seconds: float = 20.0,
        poll_seconds: float = 1.0,
    ) -> None:
        self._database_url = database_url
        self._executor_id = executor_id
        self._application_version = application_version
        self._threads = threads
        self._drain_seconds = drain_seconds
        self._poll_seconds = poll_seconds
        self._functions: dict[str, Workflow] = {}
        self._workflows: dict[str, Callable[..., Any]] = {}
        self._store: SqlEngine | None = None
        self._closing = False
        self._running: set[asyncio.Task[Any]] = set()
        self._busy: set[asyncio.Task[Any]] = set()

    def register(self, name: str, workflow: Workflow) -> None:
        """Names an async function as a workflow, before ``launch``; the name is durable."""
        if Engine._launched is self:
            raise RuntimeError("workflows are registered before the engine launches")
        if name in self._functions:
            raise ValueError(f"there is a workflow {name!r} already")
        self._functions[name] = workflow

    async def launch(self) -> None:
        """Opens the store and resumes this executor's pending work on the running event loop.

        Blocks the loop for the moment that it takes: the library adopts the loop of the thread
        that launches it, and only so do steps run on the loop that serves.
        """
        if Engine._launched is not None:
            raise RuntimeError("this process has an engine already: close it first")
        silence()
        Engine._launched = self
        try:
            DBOS(config=self._config())
            for name, function in self._functions.items():
                self._workflows[name] = DBOS.workflow(name=name)(self._tracked(function))
            DBOS.launch()
        except BaseException:
            await self._destroy()
            raise

    async def start(self, name: str, workflow_id: str, *args: Any) -> None:
        """Starts a workflow with JSON arguments; does nothing when the id was started before."""
        if self._closing:
            raise RuntimeError("the engine is closing")
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow_async(self._workflows[name], *args)

    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        retries: Retries | None = None,
        retry_if: Callable[[BaseException], bool] = worth_retrying,
    ) -> Any:
        """Runs an async function within a workflow; its JSON result is written down.

        Once it is, the function does not run again. An attempt that takes longer than
        ``retries.attempt_seconds`` ends with TimeoutError. Raises the error of the last attempt;
        after a restart that is the class of ``aura_core.errors`` that it was, or
        UnexpectedFailure for any other.
        """
        if DBOS.workflow_id is None:
            raise RuntimeError("a step runs within a workflow")
        self._stop_if_closing()
        plan = retries or Retries()

        async def attempt() -> Any:
            self._stop_if_closing()
            self._busy.add(_this_task())
            try:
                async with asyncio.timeout(plan.attempt_seconds):
                    return await function(*args)
            except Exception:
                self._busy.discard(_this_task())  # the wait for the next attempt may be cut short
                self._stop_if_closing()
                raise

        try:
            return await DBOS.run_step_async(
                {
                    "name": name,
                    "retries_allowed": plan.attempts > 1,
                    "max_attempts": plan.attempts,
                    "interval_seconds": plan.interval,
                    "backoff_rate": plan.backoff,
                    "should_retry": retry_if,
                },
                attempt,
            )
        except dbos_errors.DBOSMaxStepRetriesExceeded as exceeded:
            raise exceeded.errors[-1] from None
        finally:
            self._busy.discard(_this_task())

    async def sleep(self, seconds: float) -> None:
        """Waits within a workflow; a restart goes on waiting for what is left."""
        await DBOS.sleep_async(seconds)

    async def send(self, workflow_id: str, topic: str, message: Any) -> None:
        """Tells a workflow something (JSON); it waits until the workflow asks for the topic.

        Nothing happens when there is no such workflow: what it would be told is what it finds out
        by itself when it starts.
        """
        try:
            await DBOS.send_async(workflow_id, message, topic)
        except dbos_errors.DBOSNonExistentWorkflowError:
            return

    async def recv(self, topic: str, *, timeout: float) -> Any:  # noqa: ASYNC109 - durable
        """Waits within a workflow for the next message on a topic; None after ``timeout`` seconds,
        which a restart does not begin anew."""
        self._stop_if_closing()
        return await DBOS.recv_async(topic, timeout_seconds=timeout)

    async def status(self, workflow_id: str) -> WorkflowState | None:
        """How the workflow is; None when it was never started."""
        found = await DBOS.list_workflows_async(
            workflow_ids=[workflow_id], load_input=False, load_output=False
        )
        return _STATES.get(found[0].status, WorkflowState.PENDING) if found else None

    async def wait(self, workflow_id: str) -> Any:
        """The workflow's result, when it has one; raises its error. NotFound: never started."""
        try:
            handle: Any = await DBOS.retrieve_workflow_async(workflow_id)
        except dbos_errors.DBOSNonExistentWorkflowError:
            raise NotFound("There is no such workflow.") from None
        try:
            return await handle.get_result(polling_interval_sec=self._poll_seconds)
        except dbos_errors.DBOSMaxStepRetriesExceeded as exceeded:
            raise exceeded.errors[-1] from None

    async def cancel(self, workflow_id: str) -> None:
        """Ends a workflow before its next step."""
        await DBOS.cancel_workflow_async(workflow_id)

    async def forget(self, *, finished_before: datetime, limit: int = 500) -> int:
        """Deletes what finished before, which the library never does; answers how many."""
        found = await DBOS.list_workflows_async(
            completed_before=finished_before.isoformat(),
            status=[*_STATES],
            limit=limit,
            load_input=False,
            load_output=False,
        )
        if found:
            await DBOS.delete_workflows_async([row.workflow_id for row in found])
        return len(found)

    async def close(self) -> None:
        """Lets the steps under way finish and leaves the rest to the next launch.

        No further step begins. A workflow between two steps stays pending as it is; what takes
        longer than ``drain_seconds`` is interrupted and runs again.
        """
        if Engine._launched is not self:
            return
        self._closing = True
        try:
            await self._drain()
        finally:
            for task in self._running:
                task.cancel()
            await self._destroy()

    async def _drain(self) -> None:
        for task in self._running - self._busy:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self._drain_seconds)
        late = set(self._running)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _destroy(self) -> None:
        # Not on the loop's default pool, which is the library's own and goes down with it.
        loop = asyncio.get_running_loop()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="engine-close") as pool:
                await loop.run_in_executor(pool, lambda: DBOS.destroy(destroy_registry=True))
        finally:
            loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="aura"))
            if self._store is not None:
                close_store(self._store)
                self._store = None
            Engine._launched = None

    def _stop_if_closing(self) -> None:
        """Ends this task without an outcome: the library leaves such a workflow pending."""
        if self._closing:
            raise asyncio.CancelledError

    def _tracked(self, function: Workflow) -> Workflow:
        def forget(task: asyncio.Task[Any]) -> None:
            self._running.discard(task)
            self._busy.discard(task)

        async def run(*args: Any) -> Any:
            self._stop_if_closing()
            task = _this_task()
            self._running.add(task)
            task.add_done_callback(forget)
            result = await function(*args)
            self._busy.add(task)  # until the library has written the result down
            return result

        return run

    def _config(self) -> DBOSConfig:
        url = database_url(self._database_url)
        config: DBOSConfig = {
            "name": "aura",
            "executor_id": self._executor_id,
            "application_version": self._application_version,
            "serializer": _JsonSerializer(),
            "max_executor_threads": self._threads,
            "sys_db_pool_size": 5,
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": self._poll_seconds,
        }
        if url.get_backend_name() == "sqlite":
            self._store = open_store(url)
            config["system_database_engine"] = self._store
            config["system_database_url"] = f"sqlite:///{url.database}"
        else:
            plain = url.set(drivername="postgresql")
            config["system_database_url"] = plain.render_as_string(hide_password=False)
        return config


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("durable work runs in a task")
    return task
