"""An agent's whole life, with the real control plane, the real daemon and a local machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.local_machines import follow, journal, machines, processes_of, until
from tests.e2e.programs import control_plane

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

    calls: ClassVar[list[tuple[str, str, str | None]]]

    def do_GET(self) -> None:
        self.calls.append((self.command, self.path, self.headers.get("X-Key")))
        if self.headers.get("X-Key") != KEY:
            self._answer(401, {"error": "who are you?"})
        elif self.path == "/v1/me":
            self._answer(200, {"id": "ada"})
        else:
            self._answer(200, [{"text": "milk"}])

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Requests are kept; standard error stays quiet."""


@pytest.fixture
def notes(home: Path) -> Iterator[type[Notes]]:
    """The provider, and its manifest in the operator's folder."""

    class Handler(Notes):
        calls: ClassVar[list[tuple[str, str, str | None]]] = []

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


ROUTINES = [
    {"name": "read", "skill": "notes", "arguments": ["call", "GET", "/notes"], "every_seconds": 1},
    {
        "name": "write",
        "skill": "notes",
        "arguments": ["call", "POST", "/notes", "--json", '{"text": "x"}'],
        "every_seconds": 1,
    },
]


def test_an_agent_works_within_its_permissions_and_goes(
    machines_home: Path, notes: type[Notes]
) -> None:
    with control_plane(machines_home, **settings(machines_home)) as plane:
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
        shown = plane.api.get(f"/api/agents/{agent_id}").json()
        assert shown["instance"]["left_to_daemon"] == []
        # The skill came with the user-data: the daemon says so, and it is not sent again.
        subjects = {row["subject"] for row in shown["deliveries"]}
        assert subjects == {"policy", made.json()["id"]}
        (machine,) = machines(plane.data_dir)
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
        shown = plane.api.get(f"/api/agents/{agent_id}").json()
        assert {row["subject"] for row in shown["deliveries"]} == subjects
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
