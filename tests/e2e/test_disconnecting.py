"""The control plane is killed in the middle of a disconnect, and the next one finishes it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.canaries import Canaries
from tests.e2e.indiscreet_provider import CLIENT_ID, IndiscreetProvider, indiscreet_provider
from tests.e2e.local_machines import until
from tests.e2e.programs import announcement, aura, own_environment

PATH = "/api/integrations/chatty"


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    api: httpx.Client


@contextmanager
def running(home: Path, provider: IndiscreetProvider) -> Iterator[Running]:
    """``aura up`` that may be killed."""
    environment = own_environment(
        AURA_MANIFESTS=str(home / "manifests"),
        AURA_ALLOW_LOOPBACK_HTTP="1",
        CHATTY_CLIENT_ID=CLIENT_ID,
        CHATTY_CLIENT_SECRET=provider.client_secret,
    )
    command = aura("up", "--json", "--port", "0", "--data-dir", str(home / "data"))
    with (home / "aura.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            said = announcement(process, home / "aura.log")
            headers = {"Authorization": f"Bearer {said['token']}"}
            with httpx.Client(
                base_url=said["url"], headers=headers, timeout=60, trust_env=False
            ) as api:
                yield Running(process, api)
        finally:
            process.terminate()
            process.wait(timeout=60)
            assert process.stdout is not None
            process.stdout.close()


def connect(api: httpx.Client, provider: IndiscreetProvider) -> None:
    left = api.get(PATH)
    state = parse_qs(urlsplit(left.headers["location"]).query)["state"][0]
    back = {"state": state, "code": provider.issue("code")}
    assert api.get(f"{PATH}/callback", params=back).status_code == 200


def shown(api: httpx.Client) -> dict[str, Any]:
    (row,) = api.get("/api/integrations").json()["integrations"]
    return dict(row)


def disconnect(api: httpx.Client) -> None:
    """Nobody answers: the control plane dies."""
    with suppress(httpx.TransportError):
        api.delete(PATH)


def test_a_disconnect_that_was_killed_is_finished_by_the_next_process(home: Path) -> None:
    """The first token is revoked, and its answer still on the way: what is out of use stays so, and
    the other token is revoked by whoever starts next, without anybody asking."""
    canaries = Canaries()
    with indiscreet_provider() as provider:
        provider.write_manifests(home / "manifests")
        provider.lifetime = 3600
        with running(home, provider) as one:
            connect(one.api, provider)
            assert len(provider.alive) == 2
            provider.holding = True
            asking = Thread(target=disconnect, args=[one.api])
            asking.start()
            assert provider.held.wait(60)
            one.process.send_signal(signal.SIGKILL)
            one.process.wait(timeout=60)
            asking.join()
        assert len(provider.alive) == 1, "one of the two was revoked, and nobody heard of it"
        for name, token in provider.issued.items():
            canaries.plant(name, token)
        canaries.look_at_files("killed", home / "data")  # what waits to be revoked is sealed
        provider.holding = False
        provider.let_go.set()
        with running(home, provider) as two:
            row = shown(two.api)
            assert row["state"] == "disconnected"
            assert two.api.post(f"{PATH}/validate").status_code == 409
            until(lambda: (shown(two.api)["receipt"])["complete"], 60)
            told = {line["token"]: line["outcome"] for line in shown(two.api)["receipt"]["tokens"]}
            assert told.keys() == {"access_token", "refresh_token"}
            assert {*told.values()} <= {"revoked", "already_invalid"}
            assert provider.alive == set()
            assert two.api.delete(PATH).json() == shown(two.api)["receipt"]
        canaries.look_at_files("finished", home / "data")
    canaries.forbid()
