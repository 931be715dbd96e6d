"""Running routines: a skill's command as a process with an end, and a line about each run."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aura_plugin_local.basic import Routine

__all__ = ["Journal", "Progress", "Run", "Runner"]

_log = logging.getLogger(__name__)

LONGEST_OUTPUT = 16 * 1024
"""Bytes of a run's output that are kept."""
_LARGEST_JOURNAL = 8 * 1024 * 1024
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. ``exit_code`` is ``None`` where none came; ``error`` says why, or is stderr."""

    at: str
    routine: str
    exit_code: int | None
    output: str
    error: str | None


class Journal:
    """A file with one JSON line for each run; the one before is kept when it grows too large."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, run: Run) -> None:
        with suppress(FileNotFoundError):
            if self._path.stat().st_size > _LARGEST_JOURNAL:
                self._path.rename(self._path.with_suffix(".jsonl.1"))
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(run), ensure_ascii=False) + "\n")


class Progress:
    """How far each routine is. Kept in a file, so that a restart repeats nothing that is done."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {
            name: {"runs": 0, "last_exit_code": None, "last_at": None} for name in names
        }
        with suppress(OSError, ValueError, AttributeError):
            for name, entry in json.loads(path.read_bytes()).items():
                if name in self._known and entry.keys() == self._known[name].keys():
                    self._known[name] = entry

    def note(self, run: Run) -> None:
        self._known[run.routine] = {
            "runs": self._known[run.routine]["runs"] + 1,
            "last_exit_code": run.exit_code,
            "last_at": run.at,
        }
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self._known))
        temporary.rename(self._path)

    def succeeded(self, name: str) -> bool:
        return bool(self._known[name]["last_exit_code"] == 0)

    def summary(self) -> Mapping[str, Mapping[str, Any]]:
        """Counts and times alone: outputs are the agent's."""
        return {name: dict(entry) for name, entry in self._known.items()}


class Runner:
    """Runs routines with the skills' commands below ``skills``."""

    def __init__(self, *, skills: Path, journal: Journal, home: Path) -> None:
        self._skills = skills
        self._journal = journal
        self._home = home

    async def keep(self, routine: Routine, progress: Progress) -> None:
        """Run it as often as it wants; until it succeeds, if it wants that once."""
        delay = _FIRST_DELAY
        while routine.every_seconds is not None or not progress.succeeded(routine.name):
            run = await self.run(routine)
            # First what a restart goes by: a line that is missing is better than a second letter.
            progress.note(run)
            await asyncio.to_thread(self._journal.write, run)
            if routine.every_seconds is not None:
                await asyncio.sleep(routine.every_seconds)
            elif run.exit_code != 0:
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)

    async def run(self, routine: Routine) -> Run:
        """One run, at most ``timeout_seconds`` long; never raises for what the command does."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        program = self._find(routine.skill)
        if program is None:
            missing = f"No skill brings the command {routine.skill} (yet)."
            return Run(at=at, routine=routine.name, exit_code=None, output="", error=missing)
        try:
            process = await asyncio.create_subprocess_exec(
                program, *routine.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self._home, start_new_session=True,
            )  # fmt: skip
        except OSError as failure:
            reason = f"cannot be started: {failure.strerror}"
            return Run(at=at, routine=routine.name, exit_code=None, output="", error=reason)
        output, error = await self._finish(process, routine.timeout_seconds)
        code = process.returncode
        return Run(at=at, routine=routine.name, exit_code=code, output=output, error=error or None)

    def _find(self, command: str) -> Path | None:
        return next(iter(sorted(self._skills.glob(f"*/bin/{command}"))), None)

    async def _finish(self, process: asyncio.subprocess.Process, seconds: float) -> tuple[str, str]:
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        reading = asyncio.gather(_bounded(process.stdout), _bounded(process.stderr))
        try:
            async with asyncio.timeout(seconds):
                output, error = await reading
                await process.wait()
        except TimeoutError:
            output, error = "", f"took longer than {seconds} s and was ended"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return output, error


async def _bounded(stream: asyncio.StreamReader) -> str:
    """The stream's first bytes as text; the rest is read and dropped, so that nobody blocks."""
    kept = b""
    while chunk := await stream.read(64 * 1024):
        kept += chunk[: LONGEST_OUTPUT - len(kept)]
    return kept.decode(errors="replace")
