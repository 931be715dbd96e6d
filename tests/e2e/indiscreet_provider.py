"""A provider that repeats every secret it is told: in errors, in answers, in its own words.

It grants by OAuth with rotation, and takes keys. What it issued and what it was shown is kept, so
that a test knows each secret that was ever under way.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl

__all__ = ["CLIENT_ID", "IndiscreetProvider", "indiscreet_provider"]

CLIENT_ID = "aura-client"

_API = """
hosts = ["{host}"]
[api]
base_url = "http://{host}/v1"
[[api.rules]]
methods = ["GET"]
path = "/v1/notes"
scope = "notes:read"
[[api.rules]]
methods = ["GET"]
path = "/v1/echo"
scope = "notes:read"
"""

_OAUTH = (
    """
id = "chatty"
name = "Chatty"
category = "testing"
"""
    + _API
    + """
[[auth]]
strategy = "oauth2"
scopes = ["all"]
placements = [{{ at = "header", name = "Authorization", format = "Bearer {{access_token}}" }}]
[auth.client]
id_env = "CHATTY_CLIENT_ID"
secret_env = "CHATTY_CLIENT_SECRET"
[auth.authorization]
url = "http://{host}/authorize"
[auth.token]
url = "http://{host}/token"
auth = "client_secret_post"
[auth.refresh]
rotation = "single_use"
retry_refresh = "safe"
[auth.userinfo]
url = "http://{host}/v1/me"
account_path = "id"
[auth.verify]
url = "http://{host}/v1/me"
[auth.revocation]
url = "http://{host}/revoke"
[skill]
dir_name = "chatty-skill"
command = "chatty"
description = "Says too much."
"""
)

_KEYED = (
    """
id = "keyed"
name = "Keyed"
category = "testing"
"""
    + _API
    + """
[[auth]]
strategy = "api_key"
placements = [{{ at = "header", name = "Authorization", format = "Bearer {{api_key}}" }}]
fields = [{{ name = "api_key", label = "Key" }}]
verify = {{ url = "http://{host}/v1/me", account_path = "id" }}
[skill]
dir_name = "keyed-skill"
command = "keyed"
description = "Takes a key."
"""
)


@dataclass
class IndiscreetProvider:
    """What it knows, and how it behaves next."""

    host: str = ""
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    lifetime: int = 4
    """Seconds that the first access token lives."""
    renewed_for: int = 3600
    """Seconds that those after it live."""
    failures: int = 1
    """Refreshes that are refused, with the words of the request."""
    revocable: bool = True
    issued: dict[str, str] = field(default_factory=dict)
    """Every token and code, by a name of its own."""
    verifiers: list[str] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    repeated: int = 0
    holding: bool = False
    """Whether revocations are acted on, but answered only when ``let_go`` is set."""
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    refreshed: threading.Event = field(default_factory=threading.Event)
    failed: threading.Event = field(default_factory=threading.Event)

    def issue(self, kind: str) -> str:
        token = secrets.token_urlsafe(32)
        self.issued[f"{kind} {len(self.issued)}"] = token
        self.alive.add(token)
        return token

    def write_manifests(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "chatty.toml").write_text(_OAUTH.format(host=self.host))
        (folder / "keyed.toml").write_text(_KEYED.format(host=self.host))


class _Handler(BaseHTTPRequestHandler):
    provider: ClassVar[IndiscreetProvider]

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if shown not in self.provider.alive | {self.provider.key}:
            self._answer(401, {"error": {"message": f"who is {shown}?", "code": shown}})
        elif self.path == "/v1/me":
            self._answer(200, {"id": "ada"})
        elif self.path == "/v1/echo":
            self._answer(200, {"you": shown, "so": base64.b64encode(shown.encode()).decode()})
        else:
            self._answer(200, [{"text": "milk"}])

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        form = dict(parse_qsl(self.rfile.read(length).decode()))
        if self.path == "/revoke":
            self._revoke(form)
        elif form.get("grant_type") == "refresh_token":
            self._refresh(form)
        else:
            self._exchange(form)

    def _exchange(self, form: dict[str, str]) -> None:
        self.provider.verifiers.append(form["code_verifier"])
        if form["code"] not in self.provider.alive:
            self._repeat(400, "invalid_grant", form)
            return
        self.provider.alive.discard(form["code"])
        self._tokens()

    def _refresh(self, form: dict[str, str]) -> None:
        if self.provider.failures:
            self.provider.failures -= 1
            self._repeat(503, "temporarily_unavailable", form)
            self.provider.failed.set()
            return
        self.provider.lifetime = self.provider.renewed_for
        self.provider.alive.clear()  # the access token was short-lived, the refresh token is spent
        self._tokens()
        self.provider.refreshed.set()

    def _revoke(self, form: dict[str, str]) -> None:
        if self.provider.revocable:
            self.provider.alive.discard(form["token"])
            if self.provider.holding:
                self.provider.held.set()
                self.provider.let_go.wait(60)
            self._answer(200, {})
        else:
            self._repeat(503, "unavailable", form)

    def _tokens(self) -> None:
        self._answer(
            200,
            {
                "access_token": self.provider.issue("access token"),
                "refresh_token": self.provider.issue("refresh token"),
                "token_type": "Bearer",
                "expires_in": self.provider.lifetime,
            },
        )

    def _repeat(self, status: int, code: str, form: dict[str, str]) -> None:
        """Tells the sender what was sent, in every field that anybody might show."""
        words = [f"{name}={value}" for name, value in form.items()]
        words += [
            base64.b64encode(f"{CLIENT_ID}:{value}".encode()).decode() for value in form.values()
        ]
        text = " ".join(words[self.provider.repeated % len(words) :])
        self.provider.repeated += 1  # whoever cuts long words off sees all of them in the end
        answer = {"error": code, "error_description": f"cannot do {text}", **form}
        self._answer(status, answer)

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # who asked may have been killed
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """What it says is the test's; standard error stays quiet."""


@contextmanager
def indiscreet_provider() -> Iterator[IndiscreetProvider]:
    """The provider for as long as the block runs."""
    known = IndiscreetProvider()

    class Handler(_Handler):
        provider: ClassVar[IndiscreetProvider] = known

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
