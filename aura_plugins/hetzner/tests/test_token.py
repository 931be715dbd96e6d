"""The token goes to Hetzner's address and nowhere else; strange answers do no harm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aura_core.errors import ComputeError
from aura_plugins.hetzner.tests.projects import Make, request

DEAD = "http://127.0.0.1:9"


@contextmanager
def listening(answer: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_proxy_and_a_netrc_of_the_environment_are_not_used(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, DEAD)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    machine = await make().create(request())
    assert machine.state == "running"


def stranger(status: int, body: bytes, seen: list[str]) -> type[BaseHTTPRequestHandler]:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Requests are of no interest."""

    return Stranger


@pytest.mark.parametrize("status", [200, 403, 500])
async def test_an_answer_that_is_no_answer_is_an_error_of_ours(make: Make, status: int) -> None:
    for body in (
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"servers": 1, "meta": {}}',
        b'{"error": "no"}',
        b'{"error": {"code": null, "message": null}}',
        b'{"error": {"code": "\\u001b[31m", "message": "x"}}',
    ):
        with (
            listening(stranger(status, body, [])) as address,
            pytest.raises(ComputeError, match="Hetzner did not") as caught,
        ):
            await make(endpoint=f"{address}/v1").machines()
        assert str(caught.value).isprintable()


async def test_a_redirect_is_not_followed(make: Make) -> None:
    seen: list[str] = []
    with (
        listening(stranger(307, b"", seen)) as address,
        pytest.raises(ComputeError, match="did not say"),
    ):
        await make(endpoint=f"{address}/v1").machines()
    assert set(seen) == {"/v1/servers"}
