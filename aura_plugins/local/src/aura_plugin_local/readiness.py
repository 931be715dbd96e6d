"""``GET /readyz`` on a Unix socket: whether the runtime works, and never what it found out."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["readiness_server"]


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a request to come
    answer: ClassVar[Callable[[], Mapping[str, Any]]]

    def do_GET(self) -> None:
        if self.path != "/readyz":
            self.send_error(404)
            return
        body = json.dumps(type(self).answer()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Health checks are not worth a line each."""


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def readiness_server(path: Path, answer: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Serve on ``path`` as long as the context lasts. The daemon's user shares the group."""
    path.unlink(missing_ok=True)
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    with _Server(str(path), handler) as server:
        path.chmod(0o660)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink(missing_ok=True)
