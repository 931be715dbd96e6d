"""The composed units, read for what a supervisor without systemd can do.

Confinement (namespaces, filters, address lists) is systemd's and is not had here: a local machine
separates the agent from the daemon by users alone. Units of root's are the machine's own (firewall,
forgetting the user-data) and are never run: here the machine is the host.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aura_core.errors import ComputeError
from aura_plugin_local.record import Places

__all__ = ["Unit", "read_units"]

_PROGRAMS = "/opt/aura/bin/"
_MACHINE_PATHS = ("/etc/aura/", "/var/lib/aura/", "/var/lib/agent/", "/run/aura/", "/run/agent/")
_SPANS = {"": 1.0, "s": 1.0, "ms": 0.001, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One service. Commands and environment hold paths of the host's."""

    name: str
    user: Literal["aura", "agent"]
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: Path
    after_enrolment: bool
    restart: str
    restart_seconds: float
    stop_seconds: float
    never_restart_on: frozenset[int]
    good_exits: frozenset[int]

    def restarts_after(self, exit_code: int) -> bool:
        """Whether systemd would start it again (systemd.service(5), ``Restart=``)."""
        if exit_code in self.never_restart_on or self.restart == "no":
            return False
        if self.restart == "always":
            return True
        good = exit_code in self.good_exits
        return good if self.restart == "on-success" else not good


def read_units(places: Places, programs: Path) -> list[Unit]:
    """The services to run, the daemon's first. ``programs`` stands for ``/opt/aura/bin``.

    Raises :class:`ComputeError` for a program that is not there, naming it.
    """
    found = [
        unit
        for path in sorted(places.units.glob("*.service"))
        if (unit := _read(path, places, programs)) is not None
    ]
    return sorted(found, key=lambda unit: (unit.after_enrolment, unit.user != "aura", unit.name))


def _read(path: Path, places: Places, programs: Path) -> Unit | None:
    values: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";", "[")):
            values[key.strip()].append(value.strip().replace("%%", "%"))

    def last(key: str, default: str) -> str:
        return values[key][-1] if values[key] else default

    user = last("User", "root")
    targets = set(last("WantedBy", "").split())
    if user not in ("aura", "agent") or not targets:
        return None
    rooted = _Rooted(places, programs, path.name)
    return Unit(
        name=path.name.removesuffix(".service"),
        user="aura" if user == "aura" else "agent",
        before=tuple(rooted.command(text) for text in values["ExecStartPre"]),
        command=rooted.command(last("ExecStart", "")),
        environment=rooted.environment(values["Environment"]),
        working_directory=Path(rooted.argument(last("WorkingDirectory", "/"))),
        after_enrolment="multi-user.target" not in targets,
        restart=last("Restart", "no"),
        restart_seconds=_seconds(last("RestartSec", "100ms")),
        stop_seconds=min(_seconds(last("TimeoutStopSec", "10s")), 30.0),
        never_restart_on=_codes(last("RestartPreventExitStatus", "")),
        good_exits=_codes(last("SuccessExitStatus", "")) | {0},
    )


class _Rooted:
    """Translates a machine's paths to the host's."""

    def __init__(self, places: Places, programs: Path, unit: str) -> None:
        self._places = places
        self._programs = programs
        self._unit = unit

    def command(self, text: str) -> tuple[str, ...]:
        words = shlex.split(text)
        if not words:
            raise ComputeError(f"The unit {self._unit} starts nothing.", retryable=False)
        program = words[0]
        if program.startswith(_PROGRAMS):
            path = self._programs / program.removeprefix(_PROGRAMS)
            if not path.exists():
                raise ComputeError(
                    f"The unit {self._unit} needs {path.name}, which is not in {path.parent}.",
                    retryable=False,
                    hint="Install it in the environment that this runs in.",
                )
            words[0] = str(path)
        return tuple(self.argument(word) for word in words)

    def argument(self, word: str) -> str:
        inside = f"{word}/".startswith(_MACHINE_PATHS)
        return str(self._places.rooted(word)) if inside else word

    def environment(self, lines: list[str]) -> dict[str, str]:
        found = {}
        for assignment in (word for line in lines for word in shlex.split(line)):
            name, equals, value = assignment.partition("=")
            if equals:
                found[name] = self.argument(value)
        return found


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min|h|)", text)
    return float(match[1]) * _SPANS[match[2]] if match else 3600.0


def _codes(text: str) -> frozenset[int]:
    return frozenset(int(word) for word in text.split() if word.isdigit())
