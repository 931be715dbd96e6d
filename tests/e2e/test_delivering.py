"""A renewed credential gets to a real machine by itself, long before the machine asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.e2e.indiscreet_provider import CLIENT_ID, IndiscreetProvider, indiscreet_provider
from tests.e2e.local_machines import follow
from tests.e2e.programs import control_plane

IN_A_ROW = 3


def connect(api: httpx.Client, provider: IndiscreetProvider) -> str:
    """Through the browser; the connection's id."""
    left = api.get("/api/integrations/chatty")
    state = parse_qs(urlsplit(left.headers["location"]).query)["state"][0]
    back = {"state": state, "code": provider.issue("code")}
    assert api.get("/api/integrations/chatty/callback", params=back).status_code == 200
    (row,) = api.get("/api/integrations").json()["integrations"]
    return str(row["id"])


def events(api: httpx.Client) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    with api.stream("GET", "/api/events", timeout=60) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                yield kind, json.loads(line[6:])


def renewals(api: httpx.Client, connection_id: str) -> Iterator[tuple[datetime, datetime | None]]:
    """When each renewal was committed, and when the machine's receipt for it was: None, if the
    next renewal came before it."""
    refreshed: datetime | None = None
    for kind, data in events(api):
        at = datetime.fromisoformat(data["at"])
        if kind == "connection.refreshed":
            if refreshed is not None:
                yield refreshed, None
            refreshed = at
        elif kind == "delivery.acknowledged" and data["subject"] == connection_id and refreshed:
            yield refreshed, at
            refreshed = None


def test_each_renewal_is_on_the_machine_before_the_next(machines_home: Path) -> None:
    """The token is renewed every one to two seconds. The daemon asks every ten minutes, and the
    control plane looks every five seconds for what was left: neither would keep up."""
    with indiscreet_provider() as provider:
        provider.write_manifests(machines_home / "manifests")
        provider.failures, provider.renewed_for = 0, provider.lifetime
        environment = {
            "AURA_MANIFESTS": str(machines_home / "manifests"),
            "AURA_ALLOW_LOOPBACK_HTTP": "1",
            "AURA_HEARTBEAT_SECONDS": "600",
            "CHATTY_CLIENT_ID": CLIENT_ID,
            "CHATTY_CLIENT_SECRET": provider.client_secret,
        }
        with control_plane(machines_home, **environment) as plane:
            agent = plane.api.post("/api/agents", json={"name": "Robin"}).json()
            seen = follow(plane.api, agent["id"], "running", "failed")
            assert seen[-1][1]["state"] == "running", seen
            connection_id = connect(plane.api, provider)
            row: list[float] = []
            for looked, (refreshed, received) in enumerate(renewals(plane.api, connection_id)):
                row = [*row, (received - refreshed).total_seconds()] if received else []
                if len(row) == IN_A_ROW:
                    break
                # A machine that is busy with other things may miss one, and not one after another.
                assert looked < 4 * IN_A_ROW, "renewals overtake their delivery"
            assert min(row) < 1.0, row
