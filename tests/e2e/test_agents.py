"""An agent's whole life, with the real control plane, the real daemon and a local machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.programs import ControlPlane, control_plane

MANIFEST = """
id = "notes"
name = "Notes"
category = "productivity"
hosts = ["{host}"]

[api]
base_url = "http://{host}/v1"

[[api.rules]]
methods = ["GET"]
path = "/v1/notes"
scope = "notes:read"

[[api.rules]]
methods = ["POST"]
path = "/v1/notes"
scope = "notes:write"

[[auth]]
strategy = "api_key"
placements = [{{ at = "header", name = "X-Key", format = "{{api_key}}" }}]
fields = [{{ name = "api_key", label = "Key" }}]
verify = {{ url = "http://{host}/v1/me", account_path = "id" }}

[skill]
dir_name = "notes-skill"
command = "notes"
description = "Reads and writes notes."
"""

KEY = "key-that-no-agent-sees-4711"


class Notes(BaseHTTPRequestHandler):
    """A provider that wants its key, and keeps count."""

    calls: list[tuple[str, str, str | None]]

    def do_GET(self) -> None:
        self.calls.append((self.command, self.path, self.headers.get("X-Key")))
        if self.headers.get("X-Key") != KEY:
            self._answer(401, {"error": "who are you?"})
        elif self.path == "/v1/me":
            self._answer(200, {"id": "ada"})
        else:
            self._answer(200, [{"text": "milk"}])

    do_POST = do_GET

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def notes(home: Path) -> Iterator[type[Notes]]:
    """The provider, and its manifest in the operator's folder."""

    class Handler(Notes):
        calls: list[tuple[str, str, str | None]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    folder = home / "manifests"
    folder.mkdir()
    host = f"127.0.0.1:{server.server_address[1]}"
    (folder / "notes.toml").write_text(MANIFEST.format(host=host))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def settings(home: Path) -> dict[str, str]:
    return {
        "AURA_MANIFESTS": str(home / "manifests"),
        "AURA_ALLOW_LOOPBACK_HTTP": "1",
        "AURA_HEARTBEAT_SECONDS": "1",
    }


def follow(api: httpx.Client, agent_id: str, *states: str) -> list[tuple[str, dict[str, Any]]]:
    """The agent's events from the first, until it is in one of the states."""
    seen: list[tuple[str, dict[str, Any]]] = []
    path, kind = f"/api/agents/{agent_id}/events", ""
    with api.stream("GET", path, headers={"Last-Event-ID": "0"}, timeout=40) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                seen.append((kind, json.loads(line[6:])))
                if seen[-1][1].get("state") in states:
                    return seen
    raise AssertionError(f"the stream ended: {seen}")


def until(look: Callable[[], Any], seconds: float = 20.0) -> Any:
    """For what a file tells, which no event announces."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def journal(machine: Path) -> dict[str, dict[str, Any]]:
    """The last run of each routine."""
    path = machine / "var/lib/agent/journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {run["routine"]: run for run in map(json.loads, lines)}


ROUTINES = [
    {"name": "read", "skill": "notes", "arguments": ["call", "GET", "/notes"], "every_seconds": 1},
    {
        "name": "write",
        "skill": "notes",
        "arguments": ["call", "POST", "/notes", "--json", '{"text": "x"}'],
        "every_seconds": 1,
    },
]


def machines(plane: ControlPlane) -> list[Path]:
    folder = plane.data_dir / "machines"
    return [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []


def test_an_agent_works_within_its_permissions_and_goes(home: Path, notes: type[Notes]) -> None:
    with control_plane(home, **settings(home)) as plane:
        made = plane.api.post("/api/integrations/notes", json={"fields": {"api_key": KEY}})
        assert made.status_code == 201, made.text
        answer = plane.api.post(
            "/api/agents",
            json={
                "name": "Robin",
                "permissions": {"scopes": ["notes:read"]},
                "config": {"routines": ROUTINES},
            },
        )
        assert answer.status_code == 201, answer.text
        agent_id = answer.json()["id"]
        events = follow(plane.api, agent_id, "running", "failed")
        assert events[-1][1]["state"] == "running", events
        (machine,) = machines(plane)
        done = until(lambda: (runs := journal(machine)).get("read") and runs.get("write") and runs)
        assert done["read"]["exit_code"] == 0, done["read"]
        assert json.loads(done["read"]["output"]) == [{"text": "milk"}]
        assert done["write"]["exit_code"] == 1
        assert "notes:write" in done["write"]["error"]
        assert ("POST", "/v1/notes", KEY) not in notes.calls
        # Widening the permissions reaches the machine without anybody restarting anything.
        changed = plane.api.patch(
            f"/api/agents/{agent_id}",
            json={"permissions": {"scopes": ["notes:read", "notes:write"]}},
        )
        assert changed.status_code == 200
        until(lambda: journal(machine)["write"]["exit_code"] == 0)
        health = plane.api.get(f"/api/agents/{agent_id}/health").json()
        assert health["health"]["runtime"]["ready"] is True
        assert plane.api.delete("/api/integrations/notes").status_code == 200
        until(lambda: journal(machine)["read"]["exit_code"] != 0)
        receipt = plane.api.get("/api/integrations").json()["integrations"][0]["receipt"]
        assert [wipe["state"] for wipe in receipt["machines"]] == ["wiped"]
        gone = plane.api.delete(f"/api/agents/{agent_id}")
        assert gone.status_code == 202
        follow(plane.api, agent_id, "destroyed")
        assert not machine.exists()
        assert plane.api.get(f"/api/agents/{agent_id}").status_code == 404
        assert processes_of(machine) == []


def processes_of(machine: Path) -> list[str]:
    """Command lines and environments that speak of the machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(machine).encode() in text:
            found.append((entry / "cmdline").read_bytes().decode())
    return found
