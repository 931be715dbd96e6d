"""Naming a process so that it cannot be confused with a later one of the same number."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["ProcessIdentity"]


class ProcessIdentity(BaseModel):
    """A process by number and start (clock ticks since boot, field 22 of proc_pid_stat(5))."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started: int

    @classmethod
    def own(cls) -> ProcessIdentity:
        started = _started(os.getpid())
        assert started is not None, "/proc is needed"  # noqa: S101
        return cls(pid=os.getpid(), started=started)

    @classmethod
    def of_user(cls, users: Collection[int]) -> list[ProcessIdentity]:
        """The living processes of these user ids."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid in users:
                    started = _started(int(entry.name))
                    if started is not None:
                        found.append(cls(pid=int(entry.name), started=started))
        return found

    @classmethod
    def read(cls, path: Path) -> ProcessIdentity | None:
        """Who is named in the file; ``None`` where nobody is."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def dump(self) -> bytes:
        return self.model_dump_json().encode()

    @property
    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def end(self, number: signal.Signals, *, seconds: float) -> bool:
        """Signal the process and wait for its end; whether it has ended. Blocks."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            # The handle is of whoever has the number now; only then is it asked who that is.
            if not self.alive:
                return True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            ended = select.poll()  # not select(), which knows no descriptor above 1023
            ended.register(handle, select.POLLIN)
            return bool(ended.poll(seconds * 1000))
        finally:
            os.close(handle)


def _started(pid: int) -> int | None:
    """When it began; ``None`` if there is no such process, or only its remains (a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
