"""What is known of a machine: written before anything is made, so that a crash loses nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from fcntl import LOCK_EX, flock
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aura_core.errors import ComputeError
from aura_plugin_local.accounts import Accounts

__all__ = ["LONGEST_SOCKET_PATH", "MachineRecord", "Places", "check_name", "locked"]

LONGEST_SOCKET_PATH = 107
"""Bytes of ``sun_path`` without its NUL (unix(7))."""


class MachineRecord(BaseModel):
    """``machine.json`` of a machine. Holds nothing secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: Mapping[str, str]
    created_at: datetime
    accounts: Accounts
    isolation: str
    """For people: what stands between the agent and the daemon."""
    applied: bool = False
    """Whether the user-data has been written out."""

    @classmethod
    def read(cls, path: Path) -> MachineRecord | None:
        """``None`` where there is none. Raises :class:`ComputeError` for a damaged one."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError:
            raise ComputeError(
                f"{path} is damaged.", retryable=False, hint="Destroy the machine and make another."
            ) from None

    def write(self, path: Path) -> None:
        """Replace the file at once and for good: temporary file, fsync, rename."""
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(json.dumps(self.model_dump(mode="json"), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Places:
    """Where things lie below a machine's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.record = directory / "machine.json"
        self.lock = directory / "machine.lock"
        self.logs = directory / "var/log"
        self.run = directory / "run/aura"
        self.agent_run = directory / "run/agent"
        self.home = directory / "var/lib/agent"
        self.skills = directory / "var/lib/agent/skills"
        self.state = directory / "var/lib/aura"
        self.units = directory / "etc/systemd/system"
        self.broker_socket = self.run / "broker.sock"
        self.enrolled = self.run / "enrolled"
        self.listen = self.run / "listen.json"

    def rooted(self, path: str) -> Path:
        """Where the machine's absolute ``path`` really is."""
        return self.directory / path.lstrip("/")

    def check_length(self) -> None:
        """Raise :class:`ComputeError` if a socket below would have too long a path."""
        for path in (self.broker_socket, self.agent_run / "runtime.sock"):
            length = len(os.fsencode(path))
            if length > LONGEST_SOCKET_PATH:
                raise ComputeError(
                    f"The socket {path} would have a path of {length} bytes; "
                    f"{LONGEST_SOCKET_PATH} are possible.",
                    retryable=False,
                    hint="Use a data directory with a shorter name (AURA_DATA_DIR).",
                )


def check_name(name: str) -> None:
    """Raise :class:`ComputeError` for a name that is no plain directory's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise ComputeError(f"{name[:80]!r} is no name for a machine.", retryable=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock. Blocks: not for the loop's thread. It ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        flock(file, LOCK_EX)
        yield
