"""Units of skills and runtimes: what is let through, and all that is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.errors import InvalidInput
from aura_core.skills import VmSystemdService
from cloudinit_templates.units import read_unit, unit_name
from tests.cloudinit.plans import UNIT


def confined(text: str, name: str = "x") -> str:
    return read_unit(
        VmSystemdService(name=name, unit_file_content=text), owner="the skill x-skill"
    ).text


def with_line(line: str, section: str = "Service") -> str:
    return UNIT.replace(f"[{section}]\n", f"[{section}]\n{line}\n")


REFUSED = [
    ("Service", "User=root"),
    ("Service", "User = root"),
    ("Service", "  User=root"),
    ("Service", "Group=aura"),
    ("Service", "SupplementaryGroups=aura"),
    ("Service", "DynamicUser=yes"),
    ("Service", "ExecStartPre=+/bin/sh -c id"),
    ("Service", "ExecStartPre=!/bin/sh"),
    ("Service", "ExecStartPre=-+/bin/sh"),
    ("Service", "ExecStartPre=@+/bin/sh sh"),
    ("Service", "ExecStartPre=/bin/true ; +/bin/sh"),
    ("Service", 'ExecStartPre=/bin/true ";" +/bin/sh'),
    ("Service", "ExecStartPre=/bin/true \\"),
    ("Service", "ExecStartPre=/bin/%i"),
    ("Service", "ExecStartPre=sh"),
    ("Service", "ExecStopPost=/bin/true"),
    ("Service", "PermissionsStartOnly=yes"),
    ("Service", "LoadCredential=x:/etc/aura/join-token"),
    ("Service", "EnvironmentFile=/etc/aura/vmd.json"),
    ("Service", "NoNewPrivileges=no"),
    ("Service", "ProtectSystem=no"),
    ("Service", "ReadWritePaths=/"),
    ("Service", "AmbientCapabilities=CAP_SYS_ADMIN"),
    ("Service", "IPAddressAllow=169.254.169.254"),
    ("Service", "BindPaths=/var/lib/aura"),
    ("Service", "RootDirectory=/"),
    ("Service", "PAMName=su"),
    ("Service", "WorkingDirectory=/var/lib/aura"),
    ("Service", "WorkingDirectory=/var/lib/agent/../aura"),
    ("Service", "Type=forking"),
    ("Service", "Environment="),
    ("Service", "a line that is none"),
    ("Service", "Environment=A=1\rUser=root"),
    ("Service", "Environment=A=1\x00"),
    ("Service", "Environment=A=1\x85User=root"),
    ("Service", "Environment=A=1\u2028User=root"),
    ("Unit", "Requires=ssh.service"),
    ("Unit", "Conflicts=aura-vmd.service"),
    ("Unit", "After=aura-vmd.service"),
    ("Unit", "OnFailure=reboot.target"),
    ("Unit", "FailureAction=reboot"),
    ("Unit", "SuccessAction=poweroff"),
    ("Install", "WantedBy=sysinit.target"),
    ("Install", "Alias=ssh.service"),
    ("Install", "Also=ssh.service"),
]


@pytest.mark.parametrize(("section", "line"), REFUSED, ids=ascii)
def test_a_directive_outside_the_list_is_refused(section: str, line: str) -> None:
    with pytest.raises(InvalidInput, match="the skill x-skill: unit x, line"):
        confined(with_line(line, section))


@pytest.mark.parametrize("header", ["[Socket]", "[service]", "[Service", "[]", "[Mount]"])
def test_other_sections_are_refused(header: str) -> None:
    with pytest.raises(InvalidInput):
        confined(f"{UNIT}\n{header}\nA=b\n")


@pytest.mark.parametrize(
    "text",
    [
        "[Service]\nType=simple\n",
        "[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n",
        "ExecStart=/bin/a\n",
        "",
    ],
)
def test_one_start_is_needed(text: str) -> None:
    with pytest.raises(InvalidInput):
        confined(text or "# nothing\n")


@pytest.mark.parametrize(
    "line",
    [
        "Environment=A=b c",
        "ExecStartPre=/bin/mkdir -p /var/lib/agent/x",
        "WorkingDirectory=/var/lib/agent/skills/x",
        "KillMode=mixed",
        "TimeoutStopSec=330",
        "RestartPreventExitStatus=78",
        "SuccessExitStatus=0 143",
        "OOMPolicy=continue",
        "MemoryMax=1.5G",
        "User=agent",
        "# a comment",
    ],
)
def test_what_a_service_needs_is_let_through(line: str) -> None:
    assert line.startswith(("#", "User")) or line in confined(with_line(line)).split("\n")


def test_the_confinement_is_the_last_word() -> None:
    text = confined(UNIT)
    service = text.split("[Service]")[1].split("[Install]")[0]
    last = dict(re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE))
    assert (last["User"], last["NoNewPrivileges"], last["ProtectSystem"]) == (
        "agent", "yes", "strict",
    )  # fmt: skip
    assert "169.254.169.254" in last["IPAddressDeny"]
    assert "Requires=aura-enrolled.service" in text
    assert text.rstrip().endswith("WantedBy=aura-agent.target")


def test_node_may_compile_at_run_time_and_nobody_else() -> None:
    assert "MemoryDenyWriteExecute=yes" in confined(UNIT)
    relaxed = confined(with_line("MemoryDenyWriteExecute=no"))
    assert re.findall(r"MemoryDenyWriteExecute=(\w+)", relaxed) == ["no"]


@pytest.mark.parametrize("name", ["x.timer", "x.socket", "x@", "x@1.service", "x.service.mount"])
def test_only_plain_services_have_names(name: str) -> None:
    with pytest.raises(InvalidInput):
        unit_name(name)


def test_a_name_cannot_be_the_systems() -> None:
    assert unit_name("ssh") == unit_name("ssh.service") == "aura-agent-ssh.service"


@given(st.text(max_size=200))
def test_no_text_lifts_the_confinement(text: str) -> None:
    try:
        unit = confined(f"[Service]\nExecStart=/bin/x\n{text}")
    except InvalidInput:
        return
    lines = unit.split("\n")
    assert [line for line in lines if line.startswith("User")] == ["User=agent"]
    assert not [line for line in lines if re.match(r"Exec\w+\s*=\s*[^/]", line)]
    assert not [line for line in lines if line.endswith("\\")]
