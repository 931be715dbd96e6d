"""The runtime ``basic``: its plan, and its process with real commands."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aura_plugin_local.basic import BasicRuntime, Routine
from aura_plugin_local.routines import Journal, Progress, Run, Runner

from aura_core.errors import InvalidInput
from aura_core.runtime import AgentSpec
from aura_plugins.local.tests.machines import alive, eventually


def spec(*routines: Mapping[str, Any], **persona: str) -> AgentSpec:
    return AgentSpec(
        agent_id="a-1", name="Robin", persona=persona, config={"routines": list(routines)}
    )


def routine(**values: Any) -> dict[str, Any]:
    return {"name": "look", "skill": "mail", "arguments": ["list"], **values}


def test_the_plan_writes_configuration_and_persona() -> None:
    plan = BasicRuntime().plan(spec(routine(every_seconds=60), SOUL="Be terse.", USER="Ann"))
    files = {file.path: file.content for file in plan.write_files}
    assert json.loads(files["/var/lib/agent/runtime.json"])["routines"] == [
        {**routine(every_seconds=60), "timeout_seconds": 60}
    ]
    assert files["/var/lib/agent/persona/SOUL.md"] == "Be terse."
    assert plan.readiness.socket == "/run/agent/runtime.sock"
    assert plan == BasicRuntime().plan(
        spec(routine(every_seconds=60), SOUL="Be terse.", USER="Ann")
    )


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"routines": [routine(every_seconds=0)]}, "config.routines.0.every_seconds"),
        ({"routines": [routine(skill="../x")]}, "config.routines.0.skill"),
        ({"routines": [routine(name="")]}, "config.routines.0.name"),
        ({"routines": [routine(arguments=["a\0b"])]}, "config.routines.0.arguments"),
        ({"routines": [routine(arguments="list")]}, "config.routines.0.arguments"),
        ({"routines": [routine(timeout_seconds=10**6)]}, "config.routines.0.timeout_seconds"),
        ({"routines": [routine(), routine()]}, "config.routines"),
        ({"routines": [routine(name=f"r{n}") for n in range(33)]}, "config.routines"),
        ({"routines": [routine(shell="rm")]}, "config.routines.0.shell"),
        ({"routine": []}, "config.routine"),
    ],
)
def test_a_wrong_configuration_is_refused_by_field(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        BasicRuntime().plan(AgentSpec(agent_id="a", name="A", config=config))
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize(
    "persona", [{"../x": ""}, {"a/b": ""}, {"": ""}, {"SOUL": "x" * 20_001}, {"A": "", "A.md": ""}]
)
def test_a_wrong_persona_is_refused(persona: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="persona"):
        BasicRuntime().plan(AgentSpec(agent_id="a", name="A", persona=persona))


class Home:
    """A machine's root with skills, as the runtime's process finds it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "var/lib/agent"
        (self.home / "skills").mkdir(parents=True)
        (root / "run/agent").mkdir(parents=True)

    def skill(self, command: str, script: str) -> None:
        folder = self.home / f"skills/{command}-skill/bin"
        folder.mkdir(parents=True)
        path = folder / f"{command}.new"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        path.rename(folder / command)

    def configure(self, *routines: Mapping[str, Any]) -> None:
        for file in BasicRuntime().plan(spec(*routines)).write_files:
            (self.root / file.path.lstrip("/")).write_text(file.content)

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(x) for x in (self.home / "journal.jsonl").read_text().splitlines()]

    def ready(self, path: str = "/readyz") -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("runtime", timeout=20)) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.root / "run/agent/runtime.sock"))
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        return answer.status, json.loads(body) if answer.status == 200 else body

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "aura-runtime-basic"],
            env={"AURA_ROOT": str(self.root), "PATH": os.environ["PATH"]},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def home(short_root: Path) -> Home:
    return Home(short_root)


async def test_routines_run_and_are_written_down(home: Home) -> None:
    home.skill("mail", 'echo "args: $*"; echo careful >&2; exit 3')
    home.configure(routine(arguments=["list", "a b", "$(id)"], every_seconds=1))
    with home.running() as process:
        await eventually(lambda: len(home.journal()) >= 2)
        status, ready = home.ready()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    run = home.journal()[0]
    assert run["at"].endswith("+00:00")
    del run["at"]
    assert run == {
        "routine": "look", "exit_code": 3, "output": "args: list a b $(id)\n", "error": "careful\n",
    }  # fmt: skip
    assert (status, ready["ready"]) == (200, True)
    assert ready["routines"]["look"].keys() == {"runs", "last_exit_code", "last_at"}
    assert ready["routines"]["look"]["last_exit_code"] == 3
    assert "args" not in json.dumps(ready)
    assert not (home.root / "run/agent/runtime.sock").exists()


async def test_only_readiness_is_answered(home: Home) -> None:
    home.configure()
    with home.running():
        assert (await eventually(home.ready)) == (200, {"ready": True, "routines": {}})
        assert home.ready("/journal")[0] == 404


async def test_one_that_is_wanted_once_waits_for_its_skill_and_is_not_repeated(home: Home) -> None:
    home.configure(routine())
    with home.running():
        await eventually(lambda: home.journal()[0]["exit_code"] is None)
        assert "mail" in home.journal()[0]["error"]
        home.skill("mail", "echo done")
        await eventually(lambda: home.journal()[-1]["exit_code"] == 0)
    before = home.journal()
    with home.running():
        ready = (await eventually(home.ready))[1]
        assert ready["routines"]["look"]["runs"] == len(before)
        await asyncio.sleep(0.3)
    assert home.journal() == before


async def test_a_run_counts_before_it_is_told(home: Home) -> None:
    """A crash between the two must not do again what was done."""
    home.skill("mail", "exit 0")
    progress = Progress(home.home / "routines.json", ["look"])
    counted: list[bool] = []

    class Watched(Journal):
        def write(self, run: Run) -> None:
            counted.append(Progress(home.home / "routines.json", ["look"]).succeeded(run.routine))

    runner = Runner(
        skills=home.home / "skills", journal=Watched(home.home / "journal.jsonl"), home=home.home
    )
    await runner.keep(Routine(name="look", skill="mail"), progress)
    assert counted == [True]


async def test_a_run_that_takes_too_long_is_ended_with_its_children(home: Home) -> None:
    home.skill("mail", f"sleep 600 & echo $! > {home.root}/child; wait")
    home.configure(routine(timeout_seconds=1, every_seconds=60))
    with home.running():
        run = (await eventually(home.journal))[0]
    assert "longer than 1 s" in run["error"]
    assert not alive(int((home.root / "child").read_text()))


async def test_endless_output_is_bounded(home: Home) -> None:
    home.skill("mail", "head -c 3000000 /dev/zero | tr '\\0' x")
    home.configure(routine())
    with home.running():
        run = (await eventually(home.journal))[0]
    assert run["exit_code"] == 0
    assert run["output"] == "x" * 16 * 1024


async def test_stopping_ends_what_runs(home: Home) -> None:
    home.skill("mail", f"echo $$ > {home.root}/pid; exec sleep 600")
    home.configure(routine())
    with home.running() as process:
        pid = await eventually(lambda: int((home.root / "pid").read_text()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not alive(pid)


def test_a_configuration_that_is_none_ends_with_its_own_code(home: Home) -> None:
    (home.home / "runtime.json").write_text('{"routines": [{"name": "x"}]}')
    with home.running() as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 78
    assert "runtime.json" in error
