"""The control plane dies in the middle of making a machine, and goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.local_machines import follow, machines, processes_of, until
from tests.e2e.programs import announcement, aura, own_environment


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    api: httpx.Client


@pytest.fixture
def port() -> int:
    """A machine remembers the control plane's address: it must be the same after the restart.

    So it is none of those that the system gives to whoever asks for any (ip(7), from 32768 on): one
    of them might be somebody else's by then.
    """
    first = 20_000 + os.getpid() % 10_000
    for port in range(first, first + 1000):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@contextmanager
def running(home: Path, port: int) -> Iterator[Running]:
    command = aura("up", "--json", "--port", str(port), "--data-dir", str(home / "data"))
    environment = own_environment(AURA_HEARTBEAT_SECONDS="1")
    with (home / "aura.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            said = announcement(process, home / "aura.log")
            headers = {"Authorization": f"Bearer {said['token']}"}
            with httpx.Client(
                base_url=said["url"], headers=headers, timeout=60, trust_env=False
            ) as api:
                yield Running(process, api)
        finally:
            process.terminate()
            process.wait(timeout=30)
            assert process.stdout is not None
            process.stdout.close()


def deploy(api: httpx.Client) -> dict[str, Any]:
    answer = api.post("/api/agents", json={"name": "Robin"})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def kill_at(one: Running, agent_id: str, kind: str) -> None:
    """Kills the process as soon as it says that something has happened."""
    headers = {"Last-Event-ID": "0"}
    path = f"/api/agents/{agent_id}/events"
    with one.api.stream("GET", path, headers=headers, timeout=40) as stream:
        for line in stream.iter_lines():
            if line == f"event: {kind}":
                one.process.send_signal(signal.SIGKILL)
                one.process.wait(timeout=30)
                return
    raise AssertionError(f"{kind} did not come")


@pytest.mark.parametrize("kind", ["instance.machine_created", "instance.joined"])
def test_a_killed_control_plane_goes_on(machines_home: Path, port: int, kind: str) -> None:
    with running(machines_home, port) as one:
        agent = deploy(one.api)
        kill_at(one, agent["id"], kind)
    with running(machines_home, port) as two:
        events = follow(two.api, agent["id"], "running", "failed")
        assert events[-1][1]["state"] == "running", events
        (machine,) = machines(machines_home / "data")
        assert machine.name == agent["instance"]["machine_name"]
        kinds = [kind for kind, _ in events]
        assert kinds.count("instance.joined") == 1
        assert kinds.count("instance.enrolling") == 1
        assert two.api.delete(f"/api/agents/{agent['id']}").status_code == 202
        follow(two.api, agent["id"], "destroyed")
    assert not machine.exists()
    assert processes_of(machine) == []


def test_a_machine_goes_on_without_its_control_plane(machines_home: Path, port: int) -> None:
    with running(machines_home, port) as one:
        agent = deploy(one.api)
        follow(one.api, agent["id"], "running")
        (machine,) = machines(machines_home / "data")
        path = f"/api/agents/{agent['id']}/events"
        with one.api.stream("GET", path) as stream:
            lines = stream.iter_lines()
            next(lines)
            one.process.terminate()
            assert [line for line in lines if line.startswith("event: ")]  # and then it ends
        assert one.process.wait(timeout=30) in (0, -signal.SIGTERM)
    before = processes_of(machine)
    assert before
    with running(machines_home, port) as two:
        assert processes_of(machine) == before
        two.process.terminate()
        two.process.wait(timeout=30)
    # As when the host is restarted: nothing of the machine is left but its directory.
    os.kill(json.loads((machine / "machine.lock").read_text())["pid"], signal.SIGKILL)
    until(lambda: processes_of(machine) == [])
    with running(machines_home, port) as two:
        until(lambda: len(processes_of(machine)) == len(before))
        shown = two.api.get(f"/api/agents/{agent['id']}").json()
        assert shown["state"] in ("running", "degraded")
        # Killed while destroying, it finishes that too.
        assert two.api.delete(f"/api/agents/{agent['id']}").status_code == 202
        two.process.kill()
        two.process.wait(timeout=30)
    with running(machines_home, port) as three:
        answer = three.api.get(f"/api/agents/{agent['id']}")
        if answer.status_code == 200:
            follow(three.api, agent["id"], "destroyed")
    assert not machine.exists()
    assert processes_of(machine) == []
