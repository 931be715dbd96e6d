"""Whose process this is, and what nobody else may do to it.

The agent runs hostile code beside the daemon as a matter of course: whatever a model was talked
into. What stands between the two is the kernel's: another uid, files of mode 0600, no core dumps,
and a process that is not "dumpable", which makes ``/proc/PID/mem``, ``/proc/PID/environ`` and
ptrace(2) root's alone even towards processes of the daemon's own uid (PR_SET_DUMPABLE, prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import resource
import socket
import stat
import struct
import sys
from asyncio import BaseTransport
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aura_core.errors import ConfigurationError
from aura_vmd.settings import Layout

__all__ = [
    "Account",
    "account",
    "become",
    "check_reachable",
    "harden",
    "myself",
    "peer_check",
    "prepare_directories",
    "share_socket",
]

_PR_SET_DUMPABLE = 4
_PR_GET_DUMPABLE = 3
_PR_SET_NO_NEW_PRIVS = 38
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of the machine and its main group, as numbers."""

    uid: int
    gid: int


def account(text: str) -> Account:
    """``name``, ``uid`` or ``uid:gid``. Raises :class:`ConfigurationError`."""
    if match := re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text):
        uid = int(match.group(1))
        return Account(uid=uid, gid=int(match.group(2) or uid))
    try:
        entry = pwd.getpwnam(text)
    except KeyError:
        raise ConfigurationError(
            f"This machine has no user {text!r}.",
            hint="Create it, or name another in AURA_VMD_USER or AURA_AGENT_USER.",
        ) from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def myself() -> Account:
    """Whose process this is."""
    return Account(uid=os.geteuid(), gid=os.getegid())


def become(daemon: Account, *, agent: Account) -> None:
    """Give root up for good; nothing to do where the process is not root's.

    The agent's group stays as supplementary group: the broker's socket belongs to it. Raises
    :class:`ConfigurationError` for an account that would undo the separation.
    """
    if os.geteuid() != 0:
        return
    if 0 in (daemon.uid, daemon.gid) or daemon.uid == agent.uid:
        raise ConfigurationError(
            "Started as root, the daemon needs a user of its own: neither root nor the agent's.",
            hint="Set user in vmd.json or AURA_VMD_USER.",
        )
    os.setgroups([agent.gid])
    os.setresgid(daemon.gid, daemon.gid, daemon.gid)
    os.setresuid(daemon.uid, daemon.uid, daemon.uid)


def check_reachable() -> None:
    """Raise :class:`ConfigurationError` if this process cannot read what it is made of.

    Root may have started an interpreter that the daemon's user cannot read: below root's home, for
    example. What is imported by now would go on, and whatever is imported later would fail, one
    day, in the middle of something.
    """
    places = {Path(sys.executable).resolve()}
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is not None:
            places.add(Path(file))
    closed = next((path for path in sorted(places) if not os.access(path, os.R_OK)), None)
    if closed is not None:
        raise ConfigurationError(
            f"The daemon's user (uid {os.geteuid()}) cannot read {closed}.",
            hint="Put Python and aura-vmd where everybody may read, as below /opt/aura.",
        )


def harden() -> None:
    """Close the process to others; to be called after :func:`become`, which resets some of it."""
    os.umask(0o077)
    # A process that is not dumpable leaves no core either (core(5)); the limit only says so twice,
    # and the unit's system call filter may refuse to set it.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise ConfigurationError(f"prctl: {os.strerror(ctypes.get_errno())}.")
    if libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigurationError("The kernel leaves the daemon's memory readable.")


def prepare_directories(layout: Layout, *, daemon: Account, agent: Account) -> None:
    """Make and own the daemon's directories, as root or as the daemon's user.

    Raises :class:`ConfigurationError` when one is somebody else's, or is a link.
    """
    layout.state.parent.mkdir(parents=True, exist_ok=True)
    layout.run.parent.mkdir(parents=True, exist_ok=True)
    _own_directory(layout.state, mode=0o700, uid=daemon.uid, gid=None)
    _own_directory(layout.run, mode=0o750, uid=daemon.uid, gid=agent.gid)


def share_socket(path: Path, *, agent: Account) -> None:
    """Let the agent's group use a socket. Raises :class:`ConfigurationError`.

    Where the unit's system call filter forbids chown, the directory alone keeps others away: it
    is the agent's group's with mode 0750, and each peer's uid is checked anyway.
    """
    try:
        if path.lstat().st_gid != agent.gid:
            os.chown(path, -1, agent.gid)
        path.chmod(0o660)
    except PermissionError:
        path.chmod(0o666)
    except OSError as error:
        raise _not_owned(path, error) from None


def _own_directory(path: Path, *, mode: int, uid: int, gid: int | None) -> None:
    """A directory of this owner, group and mode. What is right already is not touched: a unit's
    system call filter may forbid chown and the set-group-id bit, which it came with."""
    try:
        path.mkdir(mode=mode, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if status.st_uid != uid or (gid is not None and status.st_gid != gid):
                os.fchown(handle, uid, -1 if gid is None else gid)
            if stat.S_IMODE(status.st_mode) & 0o777 != mode:
                os.fchmod(handle, mode)
        finally:
            os.close(handle)
    except OSError as error:
        raise _not_owned(path, error) from None


def _not_owned(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be made the daemon's own: {error.strerror}.",
        hint="The daemon must be a member of the agent's group, and see it in its user namespace.",
    )


def peer_check(agent: Account) -> Callable[[BaseTransport], bool]:
    """Who may use the broker: the agent's uid, and the daemon's own, which gains nothing by it.

    The kernel reports the uid that connected (SO_PEERCRED); no file mode can be talked around.
    """
    allowed = {agent.uid, os.geteuid()}

    def admitted(transport: BaseTransport) -> bool:
        connection = transport.get_extra_info("socket")
        if connection is None:
            return False
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return _PEER.unpack(raw)[1] in allowed

    return admitted
