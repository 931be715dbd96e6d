"""The whole path with real processes, and no secret where it must not be: connecting by OAuth and
by key, deploying, working, renewing, failing, disconnecting, destroying, deleting the tenant."""

from __future__ import annotations

import asyncio
import os
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
from aura_control.services.enrolment import join_token, open_gateway_token
from aura_control.settings import load_settings
from tests.canaries import Allowed, Canaries
from tests.e2e.indiscreet_provider import CLIENT_ID, IndiscreetProvider, indiscreet_provider
from tests.e2e.local_machines import follow, journal, machines, until
from tests.e2e.programs import ControlPlane, aura, control_plane, own_environment, run_aura

ALLOWED = (
    Allowed(
        secret="master key *", place="file:data/master-keys", reason="the operator's own key file"
    ),
    Allowed(
        secret="signing key", place="file:data/signing-key", reason="the operator's own key file"
    ),
    Allowed(
        secret="API token",
        place="file:data/session.json",
        reason="'aura up' keeps its owner's token for the command line, for that user only",
    ),
    Allowed(
        secret="tenant salt",
        place="file:data/aura.db*",
        reason="no secret by itself: it opens nothing without a master key; gone once shredded",
    ),
    Allowed(
        secret="client secret",
        place="environment:control plane",
        reason="where the operator gives it to the control plane",
    ),
    Allowed(
        secret="API token",
        place="announced",
        reason="'aura up' shows its owner the token at the start, on standard output only",
    ),
    Allowed(
        secret="*state",
        place="redirect to the provider",
        reason="the browser carries it there and back (RFC 6749 §4.1.1); used up by the callback",
    ),
)

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


class Watcher:
    """Plants what becomes known, keeps what was answered, and looks everywhere."""

    def __init__(self, plane: ControlPlane, provider: IndiscreetProvider) -> None:
        self.plane, self.provider = plane, provider
        self.canaries = Canaries(allowed=ALLOWED)
        self.answers: list[tuple[str, bytes]] = []
        self.settings = load_settings(
            data_dir=plane.data_dir, database_url=None, master_keys=None, master_keys_file=None
        )
        plant = self.canaries.plant
        plant("client secret", provider.client_secret)
        plant("API key", provider.key)
        plant("API token", plane.token)
        for number, line in enumerate(self.settings.keyring_path.read_text().splitlines()):
            plant(f"master key {number}", line.rpartition(":")[2])
        plant("signing key", self.settings.signing_key_path.read_bytes())
        plane.api.event_hooks = {"response": [self._keep]}

    def _keep(self, response: httpx.Response) -> None:
        request = response.request
        place = f"answer:{request.method} {request.url.path}"
        location = response.headers.get("location", "")
        if location.startswith(f"http://{self.provider.host}/authorize"):
            self.answers.append(("redirect to the provider", location.encode()))
        else:
            self.answers.append((place, str(response.headers.raw).encode()))
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            self.answers.append((place, response.read()))

    def run(self, *arguments: str) -> str:
        """A command of the operator's, of which both outputs are looked at."""
        done = run_aura(*arguments, "--data-dir", str(self.plane.data_dir))
        place = f"command:{' '.join(arguments[:2])}"
        self.answers += [(place, (done.stdout + done.stderr).encode())]
        return done.stdout

    async def learn(self) -> None:
        """Plants what the control plane made itself, as it is when opened."""
        vault = load_vault(self.settings)
        database = open_database(self.settings, vault)
        try:
            async with database.reading() as tx:
                for tenant in await tx.tenants.list():
                    if tenant.kdf_salt is not None:
                        self.canaries.plant("tenant salt", tenant.kdf_salt)
                    for instance in await tx.instances.of_tenant(tenant.id):
                        self.canaries.plant("join token", join_token(vault, instance.id))
                        if instance.gateway_token is not None:
                            opened = await open_gateway_token(vault, tx, instance)
                            self.canaries.plant("gateway token", opened.get_secret_value())
        finally:
            await database.close()

    def look(self) -> None:
        """Everywhere: processes, files, logs, answers."""
        asyncio.run(self.learn())
        for name, token in [*self.provider.issued.items()]:
            self.canaries.plant(name, token)
        for number, verifier in enumerate(self.provider.verifiers):
            self.canaries.plant(f"verifier {number}", verifier)
        self.canaries.look_at_processes(self._describe)
        code = [path for path in self.plane.data_dir.rglob("venv*") if path.is_dir()]
        self.canaries.look_at_files("file", self.plane.data_dir, skip=code)
        self.canaries.look("log", self.plane.log.read_bytes())
        for place, answer in self.answers:
            self.canaries.look(place, answer)

    def _describe(self, process: int, command: bytes) -> str:
        if os.fsencode(self.plane.data_dir) in command and b"up" in command.split(b"\0"):
            return "control plane"
        return os.fsdecode(command.split(b"\0")[0]).rpartition("/")[2]


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
def test_no_secret_is_where_it_must_not_be(
    machines_home: Path, provider: IndiscreetProvider
) -> None:
    environment = {
        "AURA_MANIFESTS": str(machines_home / "manifests"),
        "AURA_ALLOW_LOOPBACK_HTTP": "1",
        "AURA_HEARTBEAT_SECONDS": "1",
        "AURA_LOG_LEVEL": "debug",
        "CHATTY_CLIENT_ID": CLIENT_ID,
        "CHATTY_CLIENT_SECRET": provider.client_secret,
    }
    with control_plane(machines_home, **environment) as plane:
        watcher = Watcher(plane, provider)
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
        command, env=own_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until(lambda: watcher.plane.api.get("/api/agents").status_code == 401)
        process.send_signal(signal.SIGKILL)
    arguments = ("tenants", "delete", tenant_id, "--yes", "--give-up", "--json")
    told = watcher.run(*arguments)
    assert '"state": "deleted"' in told, told
    assert InstanceState.DESTROYED.value in told or '"destroyed_at"' in told
