"""Units that skills and runtimes bring: read strictly, confined, and written anew.

A unit file can do anything that root can: run a program as root (``User=``, ``ExecStartPre=+``),
load its secrets, mount, or replace another unit. So nothing of the text is passed on as it is.
Each line is parsed, held against a list of directives that are harmless for a process of the
agent's, and rendered into a unit of our own, in which the confinement comes last: for these
directives systemd lets the last assignment win.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aura_core.errors import InvalidInput
from aura_core.skills import VmSystemdService
from cloudinit_templates import layout
from cloudinit_templates.escaping import render

__all__ = ["AgentUnit", "read_unit", "unit_name"]

_NETWORK = frozenset({"network.target", "network-online.target"})
_INSTALL = frozenset({"multi-user.target", layout.AGENT_TARGET})
_RESTARTS = "no|always|on-success|on-failure|on-abnormal|on-abort|on-watchdog"
_SPAN = r"[0-9]+(\.[0-9]+)?(ms|s|min|h)?|infinity"
_AMOUNT = r"[0-9]+(\.[0-9]+)?[KMGT%]?|infinity"
_COMMAND = r"/[^\s;]+(\s.*)?"

# What a value of each directive must match as a whole. A leading slash of a command leaves no room
# for systemd's prefixes (`+` and `!` lift the confinement of that command).
_DIRECTIVES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "Unit": {
            "Description": r".{1,200}",
            "Documentation": r".{1,500}",
            "After": r".*",
            "Wants": r".*",
            "StartLimitIntervalSec": _SPAN,
            "StartLimitBurst": r"[0-9]+",
        },
        "Service": {
            "Type": r"simple|exec|notify|oneshot",
            "User": r"agent",
            "Group": r"agent",
            "ExecStart": _COMMAND,
            "ExecStartPre": _COMMAND,
            "ExecStop": _COMMAND,
            "ExecReload": _COMMAND,
            "Environment": r".{1,2000}",
            "WorkingDirectory": r"/var/lib/agent(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*",
            "Restart": _RESTARTS,
            "RestartSec": _SPAN,
            "RestartPreventExitStatus": r"[0-9A-Z ]+",
            "SuccessExitStatus": r"[0-9A-Z ]+",
            "TimeoutStartSec": _SPAN,
            "TimeoutStopSec": _SPAN,
            "KillMode": r"control-group|mixed",
            "KillSignal": r"SIG(TERM|INT|QUIT|HUP)",
            "OOMPolicy": r"continue|stop|kill",
            "MemoryHigh": _AMOUNT,
            "MemoryMax": _AMOUNT,
            "TasksMax": _AMOUNT,
            "CPUQuota": r"[0-9]+%%",
            "LimitNOFILE": r"[0-9]{1,6}",
            "Nice": r"1?[0-9]",
            "RemainAfterExit": r"yes|no|true|false",
            # Engines that compile at run time (Node's) need memory both writable and executable.
            "MemoryDenyWriteExecute": r"yes|no|true|false",
        },
        "Install": {"WantedBy": r".*"},
    }
)


@dataclass(frozen=True, kw_only=True)
class AgentUnit:
    """A unit as it will lie on the machine: ``name`` with its suffix, ``text`` confined."""

    name: str
    text: str


def unit_name(name: str) -> str:
    """The name on the machine of a unit that a skill or runtime calls ``name``."""
    stem = name.removesuffix(".service")
    if "@" in stem or stem.rpartition(".")[2] in _OTHER_KINDS:
        raise InvalidInput(f"The unit {name!r} is not a plain service.")
    return f"{layout.AGENT_UNIT_PREFIX}{stem}.service"


_OTHER_KINDS = frozenset({"automount", "device", "mount", "path", "scope", "service", "slice"}) | {
    "socket", "swap", "target", "timer",
}  # fmt: skip


def read_unit(service: VmSystemdService, *, owner: str) -> AgentUnit:
    """The service confined to the agent's user.

    Raises :class:`InvalidInput` naming ``owner``, the line and what is wrong with it.
    """
    found: dict[str, list[tuple[str, str]]] = {"Unit": [], "Service": [], "Install": []}
    section = ""
    for number, raw in enumerate(service.unit_file_content.split("\n"), 1):
        line = raw.strip(" \t")
        where = f"{owner}: unit {service.name}, line {number}"
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = line[1:-1] if line.endswith("]") else ""
            if section not in _DIRECTIVES:
                raise InvalidInput(f"{where}: only [Unit], [Service] and [Install] may be used.")
            continue
        key, value = _directive(section, line, where)
        found[section].append((key, value))
    _check_start(found["Service"], f"{owner}: unit {service.name}")
    dropped = {"After", "Wants", "User", "Group", "WantedBy"}
    values = {
        "unit": [pair for pair in found["Unit"] if pair[0] not in dropped],
        "service": [pair for pair in found["Service"] if pair[0] not in dropped],
        "writes_code": any(
            key == "MemoryDenyWriteExecute" and value in {"no", "false"}
            for key, value in found["Service"]
        ),
        "target": layout.AGENT_TARGET,
        "home": layout.AGENT_HOME,
        "skills": layout.SKILLS,
        "socket": layout.BROKER_SOCKET,
        "metadata": " ".join(layout.METADATA_ADDRESSES),
    }
    name = unit_name(service.name)
    return AgentUnit(name=name, text=render("agent.service.j2", values))


def _directive(section: str, line: str, where: str) -> tuple[str, str]:
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", line) or line.endswith("\\"):
        raise InvalidInput(f"{where}: control characters and continued lines are not allowed.")
    key, equals, value = line.partition("=")
    key, value = key.strip(" \t"), value.strip(" \t")
    pattern = _DIRECTIVES.get(section, {}).get(key)
    if not equals or pattern is None:
        raise InvalidInput(
            f"{where}: {key[:40]!r} is not allowed in [{section}] of an agent's unit."
        )
    if "%" in value.replace("%%", "") or not value:
        raise InvalidInput(
            f"{where}: {key} is empty or holds a specifier (write %% for a percent)."
        )
    fits = re.fullmatch(pattern, value) is not None
    if key.startswith("Exec"):
        # A separate `;` begins another command, and that one could have a prefix again.
        fits = fits and not re.search(r"(^|\s)[\"']?;[\"']?(\s|$)", value)
    elif key in {"After", "Wants"}:
        fits = fits and set(value.split()) <= _NETWORK
    elif key == "WantedBy":
        fits = fits and set(value.split()) <= _INSTALL
    if not fits:
        raise InvalidInput(f"{where}: {key} cannot have that value in an agent's unit.")
    return key, value


def _check_start(service: list[tuple[str, str]], where: str) -> None:
    starts = [value for key, value in service if key == "ExecStart"]
    oneshot = ("Type", "oneshot") in service
    if not starts or (len(starts) > 1 and not oneshot):
        raise InvalidInput(f"{where}: exactly one ExecStart is needed.")
