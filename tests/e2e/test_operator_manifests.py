"""Manifests that an operator drops into a folder: what they add without any code, and what keeps
one from being used."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import ControlPlane, control_plane, run_aura

ID = "weather"
PATH = f"/api/integrations/{ID}"
KEY = "key-7f3c9a51e2d84b06"

MANIFEST = """\
id = "weather"
name = "Weather station"
category = "environment"
hosts = ["{host}"]

[api]
base_url = "{scheme}://{host}"

[[auth]]
strategy = "api_key"
fields = [
    {{ name = "station", label = "Station", secret = false, pattern = "[a-z]{{3}}-[0-9]+" }},
    {{ name = "api_key", label = "API key" }},
]
placements = [
    {{ at = "header", name = "X-Api-Key", format = "{{api_key}}" }},
    {{ at = "query", name = "station", format = "{{station}}" }},
]

[auth.verify]
url = "{scheme}://{host}/v1/me"
account_path = "id"
metadata = {{ owner = "owner.name" }}

[skill]
dir_name = "weather-skill"
command = "weather-skill"
description = "Ask the weather station."
"""


@dataclass
class Weather:
    """A provider with one account; ``requests`` is what it was asked."""

    host: str = ""
    account: str = "station-12"
    accepted: set[str] = field(default_factory=lambda: {KEY})
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, path: str, key: str | None) -> tuple[int, dict[str, Any]]:
        self.requests.append((path, key))
        if key not in self.accepted:
            return 401, {"error": "no such key"}
        return 200, {"id": self.account, "owner": {"name": "Ada"}}


@contextmanager
def served(weather: Weather) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = weather.answer(self.path, self.headers.get("X-Api-Key"))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Requests are kept by the provider; standard error stays quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    weather.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def weather() -> Iterator[Weather]:
    station = Weather()
    with served(station):
        yield station


@pytest.fixture
def folder(home: Path) -> Path:
    made = home / "manifests"
    made.mkdir()
    return made


@pytest.fixture
def plane(home: Path, folder: Path, weather: Weather) -> Iterator[ControlPlane]:
    drop(folder, ID, scheme="http", host=weather.host)
    with control_plane(home, **operated(folder, "1")) as running:
        yield running


def drop(folder: Path, name: str, *, scheme: str = "https", host: str = "weather.example") -> Path:
    """Puts a manifest into the operator's folder."""
    path = folder / f"{name}.toml"
    text = MANIFEST.format(scheme=scheme, host=host).replace('"weather"', f'"{name}"')
    path.write_text(text)
    return path


def operated(folder: Path, loopback_http: str) -> dict[str, str]:
    """The operator's settings."""
    return {"AURA_MANIFESTS": str(folder), "AURA_ALLOW_LOOPBACK_HTTP": loopback_http}


def fields(key: str = KEY) -> dict[str, Any]:
    return {"fields": {"station": "abc-12", "api_key": key}}


def the_connection(plane: ControlPlane) -> dict[str, Any] | None:
    rows = plane.api.get("/api/integrations").json()["integrations"]
    return next((row for row in rows if row["provider"] == ID), None)


def test_a_key_connects_by_a_manifest_alone(plane: ControlPlane, weather: Weather) -> None:
    answer = plane.api.post(PATH, json=fields())

    assert answer.status_code == 201, answer.text
    connection = answer.json()
    assert connection["state"] == "connected"
    assert connection["account_id"] == "station-12"
    assert connection["metadata"]["owner"] == "Ada"
    assert weather.requests == [("/v1/me?station=abc-12", KEY)]

    assert plane.api.post(f"{PATH}/validate").json()["valid"] is True
    assert weather.requests[1:] == [("/v1/me?station=abc-12", KEY)]

    # The owner withdraws the key at the provider.
    weather.accepted.clear()
    assert plane.api.post(f"{PATH}/validate").json()["valid"] is False
    lost = the_connection(plane)
    assert lost is not None
    assert lost["state"] == "reauth_required"

    receipt = plane.api.delete(PATH).json()
    assert [line["outcome"] for line in receipt["tokens"]] == ["not_offered"]
    ended = the_connection(plane)
    assert ended is not None
    assert ended["state"] == "disconnected"

    log = plane.log.read_text()
    assert f"{PATH}/validate" in log
    assert KEY not in answer.text + json.dumps([lost, receipt, ended]) + log
    for path in plane.data_dir.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_key_that_the_provider_refuses_is_not_kept(plane: ControlPlane, weather: Weather) -> None:
    answer = plane.api.post(PATH, json=fields("key-0000"))
    assert answer.status_code == 422, answer.text
    assert "key-0000" not in answer.text
    assert the_connection(plane) is None

    malformed = plane.api.post(PATH, json={"fields": {"station": "12", "api_key": KEY}})
    assert malformed.status_code == 422
    assert list(malformed.json()["fields"]) == ["station"]
    assert len(weather.requests) == 1  # it was not even asked


# --- what keeps a manifest from being used -----------------------------------------------------


NEVER = {"public": "weather.example", "private": "10.0.0.8", "nearly": "127.0.0.1.weather.example"}


@pytest.mark.parametrize("allowed", ["0", "1"])
def test_plain_http_is_for_loopback_and_only_if_the_operator_says_so(
    folder: Path, allowed: str
) -> None:
    for name, host in NEVER.items():
        drop(folder, name, scheme="http", host=host)
    drop(folder, "loopback", scheme="http", host="127.0.0.1:9")
    drop(folder, "capitals", scheme="HTTP", host="127.0.0.1:9")

    settings = operated(folder, allowed) | {"AURA_DATA_DIR": str(folder / "data")}
    said = run_aura("plugins", "list", "--json", **settings)

    assert said.returncode == 1, said.stderr
    lines = {row["id"]: row for row in json.loads(said.stdout)["integrations"]}
    for name in NEVER:
        assert lines[name]["status"] == "quarantined"
        assert f"{folder}/{name}.toml: api.base_url: " in lines[name]["reason"]
        assert "only https is allowed" in lines[name]["reason"]
    for name in ("loopback", "capitals"):
        if allowed == "1":
            assert lines[name]["status"] == "available"
        else:
            assert "plain http is not allowed" in lines[name]["reason"]


def test_what_is_quarantined_is_listed_and_cannot_be_connected(
    home: Path, folder: Path, weather: Weather
) -> None:
    drop(folder, "weather", scheme="http", host=weather.host)
    drop(folder, "healthy")
    misspelt = drop(folder, "misspelt")
    misspelt.write_text(misspelt.read_text().replace("placements", "placement"))
    drop(folder, "twice").rename(folder / "another.toml")
    drop(folder, "twice")

    with control_plane(home, **operated(folder, "0")) as plane:
        rows = plane.api.get("/api/providers").json()["providers"]
        refused = [
            plane.api.post(f"/api/integrations/{name}", json=fields()).json()
            for name in ("weather", "misspelt", "twice")
        ]

    listed = {row["id"]: row for row in rows}
    assert listed["healthy"]["status"] == "available"
    status = {name: listed[name]["status"] for name in ("weather", "misspelt", "twice")}
    assert set(status.values()) == {"quarantined"}, status
    assert "AURA_ALLOW_LOOPBACK_HTTP" in listed["weather"]["reason"]
    assert f"{misspelt}: auth[0].placement" in listed["misspelt"]["reason"]
    assert "Did you mean 'placements'?" in listed["misspelt"]["reason"]
    assert "offered by" in listed["twice"]["reason"]
    assert [problem["status"] for problem in refused] == [503, 503, 503]
    assert weather.requests == []
