"""The whole path with real processes, and no secret where it must not be: connecting by OAuth and
by key, deploying, working, renewing, failing, disconnecting, destroying, deleting the tenant."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from aura_control.bootstrap import load_vault, open_database
from aura_control.db.models import InstanceState
from tests.canaries import Canaries
from tests.e2e.indiscreet_provider import CLIENT_ID, IndiscreetProvider, indiscreet_provider
from tests.e2e.local_machines import follow, journal, machines, until
from tests.e2e.programs import aura, control_plane, own_environment
from tests.e2e.watcher import Watcher, dumped
from tests.postgres import running_postgres

ROUTINES = [
    {"name": name, "skill": skill, "arguments": ["call", "GET", path], "every_seconds": 1}
    for name, skill, path in (
        ("read", "chatty", "/notes"),
        ("keyed", "keyed", "/notes"),
        ("echo", "chatty", "/echo"),
        ("refused", "keyed", "/elsewhere"),
    )
]


@pytest.fixture
def provider(home: Path) -> Iterator[IndiscreetProvider]:
    with indiscreet_provider() as running:
        running.write_manifests(home / "manifests")
        yield running


@pytest.fixture
def databases(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Where the control plane keeps its rows, as the operator says it: files, or a server."""
    if request.param == "sqlite":
        yield {}
        return
    with running_postgres() as server:
        yield {"AURA_DATABASE_URL": server.create(), "AURA_DURABLE_URL": server.create()}


def authorize(watcher: Watcher) -> None:
    """Through the browser; then its callback is sent once more, as a thief would."""
    api = watcher.plane.api
    left = api.get("/api/integrations/chatty")
    assert left.status_code == 302, left.text
    asked = parse_qs(urlsplit(left.headers["location"]).query)
    watcher.canaries.plant("state", asked["state"][0])
    back = {"state": asked["state"][0], "code": watcher.provider.issue("code")}
    for _ in range(2):
        page = api.get("/api/integrations/chatty/callback", params=back)
        watcher.answers.append(("callback", page.content))
    assert {row["provider"]: row["state"] for row in connections(api)}["chatty"] == "connected"


def mistakes(watcher: Watcher) -> None:
    """Wrong keys, codes and tokens, each of which an answer or a log might repeat."""
    api, wrong = watcher.plane.api, secrets.token_urlsafe(32)
    watcher.canaries.plant("mistyped key", wrong)
    refused = api.post("/api/integrations/keyed", json={"fields": {"api_key": wrong}})
    assert refused.status_code >= 400
    assert api.post("/api/integrations/keyed", json={"fields": {wrong: wrong}}).status_code == 422
    left = api.get("/api/integrations/chatty")
    state = parse_qs(urlsplit(left.headers["location"]).query)["state"][0]
    watcher.canaries.plant("another state", state)
    api.get("/api/integrations/chatty/callback", params={"state": state, "code": wrong})
    with watcher.plane.client(wrong) as thief:
        answer = thief.get("/api/integrations")
        assert answer.status_code == 401
        watcher.answers.append(("answer:to a thief", answer.content))


def connections(api: httpx.Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = api.get("/api/integrations").json()["integrations"]
    return rows


def deploy(watcher: Watcher) -> tuple[str, Path]:
    answer = watcher.plane.api.post(
        "/api/agents",
        json={
            "name": "Robin",
            "permissions": {"scopes": ["notes:read"]},
            "config": {"routines": ROUTINES},
        },
    )
    assert answer.status_code == 201, answer.text
    agent_id: str = answer.json()["id"]
    events = follow(watcher.plane.api, agent_id, "running", "failed")
    assert events[-1][1]["state"] == "running", events
    watcher.answers.append(("events", repr(events).encode()))
    (machine,) = machines(watcher.plane.data_dir)
    return agent_id, machine


def work(watcher: Watcher, machine: Path) -> None:
    """Until each routine ran with a renewed token."""
    assert watcher.provider.failed.wait(30), "no renewal was refused"
    # Asking whether the access works renews it, once the pause after the failure is over.
    validate = "/api/integrations/chatty/validate"
    until(lambda: watcher.plane.api.post(validate) and watcher.provider.refreshed.is_set(), 30)
    names = {routine["name"] for routine in ROUTINES}
    runs = until(lambda: (seen := journal(machine)).keys() >= names and seen)
    assert runs["refused"]["exit_code"] != 0
    assert runs["echo"]["exit_code"] != 0, "an answer that holds the token is not passed on"
    until(lambda: journal(machine)["read"]["exit_code"] == 0)
    until(lambda: journal(machine)["keyed"]["exit_code"] == 0)


def look_around(watcher: Watcher, agent_id: str) -> None:
    """What a user and an operator may ask for."""
    api = watcher.plane.api
    for path in (
        "/metrics",
        "/readyz",
        "/api/providers",
        "/api/integrations",
        "/api/agents",
        f"/api/agents/{agent_id}",
        f"/api/agents/{agent_id}/health",
    ):
        assert api.get(path).status_code == 200, path
    api.post("/api/integrations/chatty/validate")
    commands = ("connections list", "agents list", "tenants list", "doctor")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda command: watcher.run(*command.split(), "--json"), commands))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "databases",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.storm)],
    indirect=True,
)
def test_no_secret_is_where_it_must_not_be(
    machines_home: Path, provider: IndiscreetProvider, databases: dict[str, str]
) -> None:
    environment = {
        **databases,
        "AURA_MANIFESTS": str(machines_home / "manifests"),
        "AURA_ALLOW_LOOPBACK_HTTP": "1",
        "AURA_HEARTBEAT_SECONDS": "1",
        "AURA_LOG_LEVEL": "debug",
        "CHATTY_CLIENT_ID": CLIENT_ID,
        "CHATTY_CLIENT_SECRET": provider.client_secret,
    }
    with control_plane(machines_home, **environment) as plane:
        watcher = Watcher(plane, provider, databases)
        watcher.canaries.look("announced", plane.token)
        made = plane.api.post("/api/integrations/keyed", json={"api_key": provider.key})
        assert made.status_code == 201, made.text
        authorize(watcher)
        mistakes(watcher)
        agent_id, machine = deploy(watcher)
        work(watcher, machine)
        look_around(watcher, agent_id)
        watcher.look()

        provider.revocable = False
        receipt = plane.api.delete("/api/integrations/chatty").json()
        assert {line["outcome"] for line in receipt["tokens"]} == {"failed"}
        watcher.look()  # what waits to be revoked is sealed

        salt = salt_of(watcher)
        provider.revocable = True
        end_tenant(watcher)
        watcher.look()
        assert provider.alive == set(), "all tokens were revoked"
        assert machines(plane.data_dir) == []
        gone = Canaries()
        gone.plant("tenant salt", salt)
        gone.look_at_files("file", plane.data_dir)
        for url in databases.values():
            for place, rows in dumped(url):
                gone.look(place, rows)
        gone.forbid()
    watcher.canaries.look("log", plane.log.read_bytes())
    expected = {"API key", "API token", "client secret", "gateway token", "join token", "state"}
    assert watcher.canaries.planted >= expected | {"signing key", "tenant salt", "verifier 0"}
    kinds = {re.sub(r" \d+$", "", name) for name in watcher.canaries.planted}
    assert kinds >= {"access token", "refresh token", "code", "master key"}
    watcher.canaries.forbid()


def salt_of(watcher: Watcher) -> bytes:
    async def read() -> bytes:
        database = open_database(watcher.settings, load_vault(watcher.settings))
        try:
            async with database.reading() as tx:
                (tenant,) = await tx.tenants.list()
        finally:
            await database.close()
        assert tenant.kdf_salt is not None
        return tenant.kdf_salt

    return asyncio.run(read())


def end_tenant(watcher: Watcher) -> None:
    """By the operator's command, which is killed on the way and called again."""
    data_dir = str(watcher.plane.data_dir)
    tenant_id = watcher.run("tenants", "list", "--json").partition('"id": "')[2].partition('"')[0]
    command = aura("tenants", "delete", tenant_id, "--yes", "--json", "--data-dir", data_dir)
    with subprocess.Popen(
        command,
        env=own_environment(**watcher.databases),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until(lambda: watcher.plane.api.get("/api/agents").status_code == 401)
        process.send_signal(signal.SIGKILL)
    arguments = ("tenants", "delete", tenant_id, "--yes", "--give-up", "--json")
    told = watcher.run(*arguments)
    assert '"state": "deleted"' in told, told
    assert InstanceState.DESTROYED.value in told or '"destroyed_at"' in told
