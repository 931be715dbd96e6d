"""Units as composing writes them, read for a supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aura_plugin_local.basic import BasicRuntime
from aura_plugin_local.record import Places
from aura_plugin_local.units import Unit, read_units

from aura_core.errors import ComputeError
from aura_core.skills import VmSystemdService
from cloudinit_templates.units import read_unit

PROGRAMS = Path(sys.executable).parent


def one(tmp_path: Path, lines: str, *, name: str = "x") -> Unit:
    composed = read_unit(
        VmSystemdService(
            name=name, unit_file_content=f"[Service]\nExecStart=/opt/aura/bin/python\n{lines}"
        ),
        owner="a test",
    )
    places = Places(tmp_path)
    places.units.mkdir(parents=True)
    (places.units / composed.name).write_text(composed.text)
    (unit,) = read_units(places, PROGRAMS)
    return unit


def test_paths_of_the_machine_become_the_hosts(tmp_path: Path) -> None:
    unit = one(
        tmp_path,
        "ExecStartPre=/usr/bin/test -e /var/lib/agent/x\n"
        'Environment="A=b c" B=/var/lib/agent D=/var/lib/agents E=100%%\n'
        "WorkingDirectory=/var/lib/agent/work\n",
    )
    assert unit.command == (str(PROGRAMS / "python"),)
    assert unit.before == (("/usr/bin/test", "-e", f"{tmp_path}/var/lib/agent/x"),)
    assert unit.environment["A"] == "b c"
    assert unit.environment["B"] == f"{tmp_path}/var/lib/agent"
    assert unit.environment["D"] == "/var/lib/agents"
    assert unit.environment["E"] == "100%"
    assert unit.working_directory == tmp_path / "var/lib/agent/work"
    assert (unit.user, unit.after_enrolment, unit.name) == ("agent", True, "aura-agent-x")


@pytest.mark.parametrize(
    ("lines", "again"),
    [
        ("", {0: False, 1: False, -9: False}),
        ("Restart=always", {0: True, 1: True, -9: True}),
        ("Restart=on-failure", {0: False, 1: True, -9: True}),
        ("Restart=on-success", {0: True, 1: False}),
        ("Restart=always\nRestartPreventExitStatus=78 79", {0: True, 78: False, 79: False}),
        ("Restart=on-failure\nSuccessExitStatus=0 143", {143: False, 1: True}),
    ],
)
def test_what_is_started_again(tmp_path: Path, lines: str, again: dict[int, bool]) -> None:
    unit = one(tmp_path, lines)
    assert {code: unit.restarts_after(code) for code in again} == again


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("300ms", 0.3), ("1.5s", 1.5), ("2min", 120.0), ("infinity", 3600.0)],
)
def test_spans(tmp_path: Path, text: str, seconds: float) -> None:
    assert one(tmp_path, f"RestartSec={text}").restart_seconds == seconds


def test_the_daemon_comes_first(tmp_path: Path) -> None:
    one(tmp_path, "", name="a")
    daemon = "[Service]\nUser=aura\nExecStart=/opt/aura/bin/python\n"
    (tmp_path / "etc/systemd/system/z.service").write_text(
        f"{daemon}[Install]\nWantedBy=multi-user.target\n"
    )
    assert [u.user for u in read_units(Places(tmp_path), PROGRAMS)] == ["aura", "agent"]


def test_a_unit_without_a_program_is_named(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.units.mkdir(parents=True)
    (places.units / "x.service").write_text("User=agent\nWantedBy=aura-agent.target\n")
    with pytest.raises(ComputeError, match=r"x\.service"):
        read_units(places, PROGRAMS)


def test_the_unit_of_the_runtime_basic_passes(tmp_path: Path) -> None:
    from aura_core.runtime import AgentSpec

    (service,) = BasicRuntime().plan(AgentSpec(agent_id="a", name="A")).services
    places = Places(tmp_path)
    places.units.mkdir(parents=True)
    composed = read_unit(service, owner="the runtime basic")
    (places.units / composed.name).write_text(composed.text)
    (unit,) = read_units(places, PROGRAMS)
    assert unit.command == (str(PROGRAMS / "aura-runtime-basic"),)
    assert unit.restarts_after(0)
