"""The command line against a real control plane: what it prints, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aura_control.cli import main
from tests.e2e.programs import ControlPlane, aura, control_plane, own_environment, run_aura
from tests.e2e.test_operator_manifests import KEY, Weather, drop, operated, served

HOSTILE = "Ada[/bold]\x1b]0;owned\x07[red]"


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def weather() -> Iterator[Weather]:
    station = Weather(account=HOSTILE)
    with served(station):
        yield station


@pytest.fixture(scope="module")
def plane(module_home: Path, weather: Weather) -> Iterator[ControlPlane]:
    folder = module_home / "manifests"
    folder.mkdir()
    drop(folder, "weather", scheme="http", host=weather.host)
    with control_plane(module_home, **operated(folder, "1")) as running:
        yield running


@pytest.fixture
def run(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command in this process, as the plane's owner."""
    monkeypatch.setenv("AURA_DATA_DIR", str(plane.data_dir))
    for name in ("AURA_URL", "AURA_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **variables: str) -> Said:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["aura", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capfd.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return run


CONNECT = (
    "connect", "weather", "--field", "station=abc-12", "--field", f"api_key={KEY}",
)  # fmt: skip


def test_an_account_is_connected_listed_and_disconnected(run: Run) -> None:
    connected = run(*CONNECT, "--json")
    assert connected.code == 0, connected
    assert connected.document["state"] == "connected"
    listed = run("connections", "list", "--json").document["integrations"]
    assert [row["provider"] for row in listed] == ["weather"]
    ended = run("connections", "disconnect", "weather", "--json")
    assert ended.code == 0
    assert ended.document["tokens"][0]["outcome"] == "not_offered"
    for said in (connected, ended):
        assert KEY not in said.out + said.err


def test_a_connection_is_shown_with_what_its_machines_hold(run: Run) -> None:
    assert run(*CONNECT).code == 0
    assert run("agents", "create", "robin").code == 0
    connection = run("connections", "show", "weather", "--json").document
    (machine,) = connection["machines"]
    assert (machine["state"], machine["acked_revision"]) == ("held", machine["desired_revision"])
    said = run("connections", "show", "weather", COLUMNS="80")
    assert max(len(line) for line in said.out.splitlines()) <= 80
    for words in ("state", "connected", "to do", "expires", "never", machine["agent_id"][:8]):
        assert words in said.out
    assert str(machine["acked_revision"]) in said.out
    assert run("agents", "destroy", machine["agent_id"]).code == 0
    assert run("connections", "disconnect", "weather").code == 0
    ended = run("connections", "show", "weather")
    assert "RECEIPT" in ended.out
    assert KEY not in said.out + ended.out


# A shell's background job, as a test run may be one, has its children ignore the interrupt.
_HEARS_INTERRUPTS = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)


def test_the_connections_are_followed(run: Run, plane: ControlPlane) -> None:
    environment = own_environment(AURA_DATA_DIR=str(plane.data_dir), PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        aura("connections", "watch"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=_HEARS_INTERRUPTS,  # noqa: PLW1509
    ) as following:
        assert following.stdout is not None
        assert "following" in following.stdout.readline()
        assert run(*CONNECT).code == 0
        assert following.stdout.readline().split()[1:] == ["weather", "connected"]
        assert run("connections", "disconnect", "weather").code == 0
        assert following.stdout.readline().split()[1:] == ["weather", "disconnected"]
        following.send_signal(signal.SIGINT)


def test_what_others_named_is_no_markup_and_does_not_drive_the_terminal(run: Run) -> None:
    said = run(*CONNECT)
    assert said.code == 0
    assert said.out.startswith("connected weather: Ada[/bold]")
    for table in (run("connections", "list"), said):
        assert "\x1b]" not in table.out
        assert "Ada[/bold]" in table.out
    agent = run("agents", "create", "A[/]", "--no-wait", "--json").document
    assert run("agents", "show", agent["id"]).out.startswith("A[/] (")
    assert run("agents", "destroy", agent["id"]).code == 0


def test_an_agent_is_followed_until_it_runs_and_until_it_is_gone(run: Run) -> None:
    made = run("agents", "create", "robin", "--scope", "email:read")
    assert made.code == 0, made
    for state in ("requested", "provisioning", "enrolling", "running"):
        assert f"instance.{state}" in made.out
    agent_id = re.findall(r"agent (\w+) is (?:running|degraded)", made.out)[0]
    (row,) = (
        row for row in run("agents", "list", "--json").document["agents"] if row["id"] == agent_id
    )
    assert row["permissions"] == {"scopes": ["email:read"]}
    assert run("agents", "show", agent_id, "--json").document["health"]["agent_id"] == agent_id
    gone = run("agents", "destroy", agent_id)
    assert gone.code == 0
    assert "instance.destroyed" in gone.out
    assert run("agents", "show", agent_id, "--json").document["status"] == 404


def test_an_agent_that_does_not_come_to_run_is_a_failure(run: Run) -> None:
    wrong = run("agents", "create", "robin", "--runtime", "nothing", "--json")
    assert wrong.code == 1
    assert "runtime" in wrong.document["fields"]


FAILURES: dict[str, tuple[tuple[str, ...], dict[str, str], int]] = {
    "no such integration": (("connect", "nobody"), {}, 1),
    "no such agent": (("agents", "show", "0" * 32), {}, 1),
    "no such connection": (("connections", "disconnect", "google"), {}, 1),
    "nothing to show": (("connections", "show", "google"), {}, 1),
    "wrong key": ((*CONNECT[:4], "--field", "api_key=x"), {}, 1),
    "no such runtime": (("compose", "--runtime", "nothing"), {}, 1),
    "no such twin": (("plugins", "twin", "nobody"), {}, 1),
    "address taken": (("users", "add", "owner@localhost"), {}, 1),
    "wrong setting": (("agents", "list"), {"AURA_PORT": "many"}, 2),
    "wrong setting of a local command": (("plugins", "list"), {"AURA_PORT": "many"}, 2),
    "no such file": (("agents", "create", "x", "--config", "/nowhere.json"), {}, 2),
    "no JSON file": (("compose", "--config", __file__), {}, 2),
    "nowhere to write": (("compose", "--out", "/nowhere/at/all"), {}, 2),
    "two documents": (("compose", "--out", "-"), {}, 2),
    "no data": (("agents", "list"), {"AURA_DATA_DIR": "/nowhere"}, 2),
    "no keys": (("serve", "--port", "0"), {"AURA_DATA_DIR": "/nowhere"}, 2),
    "no data directory": (("up", "--data-dir", "/dev/null/x", "--port", "0"), {}, 2),
    "no database": (
        ("up", "--port", "0"),
        {"AURA_DATABASE_URL": "postgresql://aura:sw0rdfish@127.0.0.1:9/x"},
        2,
    ),
    "nobody there": (
        ("agents", "list"), {"AURA_URL": "http://127.0.0.1:9", "AURA_TOKEN": "x"}, 3
    ),
    "no address": (("agents", "list"), {"AURA_URL": "http://[x", "AURA_TOKEN": "x"}, 3),
    "wrong token": (("agents", "list"), {"AURA_TOKEN": "aura_nobody", "AURA_URL": ""}, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_its_exit_code_and_one_document(run: Run, name: str) -> None:
    arguments, variables, code = FAILURES[name]
    for as_json in (True, False):
        said = run(*arguments, *(["--json"] if as_json else []), **variables)
        if name == "two documents" and not as_json:
            continue
        assert said.code == code, said
        assert "Traceback" not in said.err
        assert "sw0rdfish" not in said.out + said.err
        if as_json:
            assert said.document["title"]
        else:
            assert said.out == ""
            assert "error:" in said.err


def test_something_else_at_the_address_is_said_as_such(run: Run, weather: Weather) -> None:
    said = run("agents", "list", "--json", AURA_URL=f"http://{weather.host}", AURA_TOKEN="x")
    assert said.code == 3
    assert "There is no control plane at" in said.document["title"]


def test_every_command_that_is_promised_is_there(run: Run) -> None:
    said = run("--help")
    assert said.code == 0
    promised = re.findall(r"^ *│? +([a-z]+)  +", said.out, re.MULTILINE)
    assert sorted(set(promised)) == sorted(
        [
            *("up", "serve", "connect", "compose", "doctor", "connections", "agents", "plugins"),
            *("audit", "keys", "tenants", "users"),
        ]
    )
    assert "Exit codes:" in said.out
    for command in promised:
        assert run(command, "--help").code == 0


def test_composing_shows_what_a_machine_boots_from(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "user-data"
    said = run("compose", "google", "--json", "--out", str(out))
    assert said.code == 0
    assert said.document["skills"] == ["google-workspace-skill"]
    assert said.document["size"] == len(out.read_bytes())
    assert "bytes" in run("compose", "google").out
    assert run("compose", "--readable", "--out", "-").document["write_files"]


def test_the_doctor_finds_what_is_wrong(run: Run, plane: ControlPlane) -> None:
    well = run("doctor", "--json")
    assert well.code == 0, well
    checks = {line["check"]: line["outcome"] for line in well.document["findings"]}
    assert checks["keys"] == checks["database"] == checks["control plane"] == "ok"
    for variables in (
        {"AURA_DATA_DIR": "/nowhere"},
        {"AURA_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"},
        {"AURA_LOG_LEVEL": "loud"},
    ):
        ill = run("doctor", "--json", **variables)
        assert ill.code == 1
        assert "fail" in {line["outcome"] for line in ill.document["findings"]}


def test_a_link_that_nobody_takes_up_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("connect", "google", "--no-browser", "--wait", "0", "--json")
    assert said.code == 1
    assert said.document["title"]


def test_up_says_why_it_cannot_start(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = run_aura("up", "--json", "--port", port, "--data-dir", str(home / "data"))
    assert said.returncode == 2
    assert f":{port} cannot be used" in json.loads(said.stdout)["title"]


def test_serving_an_unmigrated_database_says_so(home: Path, plane: ControlPlane) -> None:
    for name in ("master-keys", "signing-key"):
        (home / name).write_bytes((plane.data_dir / name).read_bytes())
        (home / name).chmod(0o600)
    said = run_aura("serve", "--json", "--port", "0", "--data-dir", str(home))
    assert said.returncode == 2, said
    assert "this Aura needs" in json.loads(said.stdout)["title"]
    assert "Run 'aura up'" in json.loads(said.stdout)["hint"]


def test_an_interrupted_watch_ends_quietly(plane: ControlPlane, run: Run) -> None:
    agent = run("agents", "create", "robin", "--no-wait", "--json").document
    command = aura("agents", "watch", agent["id"], "--data-dir", str(plane.data_dir))
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own_environment(),
        preexec_fn=_HEARS_INTERRUPTS,  # noqa: PLW1509
    ) as watching:
        assert watching.stdout is not None
        assert "instance.requested" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
    assert watching.returncode in (1, 130)
    assert "Traceback" not in err
    assert run("agents", "destroy", agent["id"], "--json").code == 0
