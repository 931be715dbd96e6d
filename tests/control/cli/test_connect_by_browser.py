"""``aura connect`` by browser, against a control plane that is played."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aura_control.cli.connect import connect

BEFORE = {"provider": "acme", "state": "disconnected", "connected_at": "2026-01-01T00:00:00+00:00"}
AFTER = {"provider": "acme", "state": "expiring", "connected_at": "2026-01-02T00:00:00+00:00"}


class _Answers(BaseHTTPRequestHandler):
    linked = False

    def do_GET(self) -> None:
        if self.path == "/api/providers":
            self._say({"providers": [{"id": "acme", "auth": [{"strategy": "oauth2"}]}]})
        else:
            self._say({"integrations": [AFTER if type(self).linked else BEFORE]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).linked = True
        self._say({"url": "http://127.0.0.1/link"})

    def _say(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    class Answers(_Answers):
        """Of this test alone."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_access_that_cannot_be_renewed_is_connected_too(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It may be "expiring" before anybody looks."""
    monkeypatch.setenv("AURA_URL", url)
    monkeypatch.setenv("AURA_TOKEN", "aura_x")
    connect("acme", None, None, False, 5, tmp_path, True)
    assert json.loads(capsys.readouterr().out) == AFTER
