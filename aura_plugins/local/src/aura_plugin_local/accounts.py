"""Whose processes a machine's are.

Where the host runs as root, each machine has two users of its own, as on a real one: one for the
daemon, one for the agent. They are numbers without names, out of the range that systemd keeps for
users that come and go (61184 to 65519, systemd.io/UIDS-GIDS). Elsewhere both are the host's own
user: then the daemon's memory is closed to the agent by the daemon itself, but its files are not,
and the record says so.
"""

from __future__ import annotations

import os
import pwd
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aura_core.errors import ComputeError

__all__ = ["Account", "Accounts", "choose_accounts"]

_FIRST, _LAST = 61184, 65519


class Account(BaseModel):
    """A user id and its main group's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: Annotated[int, Field(ge=0)]
    gid: Annotated[int, Field(ge=0)]


class Accounts(BaseModel):
    """The two users of a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    daemon: Account
    agent: Account

    @property
    def separate(self) -> bool:
        """Whether the kernel keeps the agent from the daemon."""
        return self.daemon.uid != self.agent.uid

    def find(self, name: str) -> Account:
        """The account that user-data calls ``name``: ``root``, ``aura`` or ``agent``."""
        if not self.separate or name == "root":
            return Account(uid=os.geteuid(), gid=os.getegid())
        known = {"aura": self.daemon, "agent": self.agent}
        if name not in known:
            raise ComputeError(f"The machine has no user {name!r}.", retryable=False)
        return known[name]


def choose_accounts(name: str, *, taken: Iterable[int]) -> Accounts:
    """Accounts for the machine ``name`` that neither another machine nor a process has.

    Raises :class:`ComputeError` when there are none left.
    """
    if os.geteuid() != 0:
        own = Account(uid=os.geteuid(), gid=os.getegid())
        return Accounts(daemon=own, agent=own)
    used = {*taken, *_running(), *(entry.pw_uid for entry in pwd.getpwall())}
    # Begin somewhere else for each name: another data directory on this host keeps other records.
    pairs = (_LAST - _FIRST + 1) // 2
    begin = zlib.crc32(name.encode()) % pairs
    for step in range(pairs):
        first = _FIRST + 2 * ((begin + step) % pairs)
        if not {first, first + 1} & used:
            return Accounts(
                daemon=Account(uid=first, gid=first),
                agent=Account(uid=first + 1, gid=first + 1),
            )
    raise ComputeError("No user ids are left for another machine.", retryable=False)


def _running() -> set[int]:
    """The users that have a process now."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(entry.stat().st_uid)
            except OSError:
                continue
    return found
