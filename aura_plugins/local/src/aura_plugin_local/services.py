"""Running a machine's services: started, watched, started again, and ended with all they began."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from aura_plugin_local import kernel
from aura_plugin_local.accounts import Accounts
from aura_plugin_local.record import Places
from aura_plugin_local.units import Unit

__all__ = ["Service", "end_orphans", "pids", "reap_orphans"]

_log = logging.getLogger(__name__)

_LONGEST_DELAY = 30.0
_HEALTHY_AFTER = 60.0  # seconds of life after which the delay begins anew
_LARGEST_LOG = 4 * 1024 * 1024
_FROM_OUTSIDE = ("LANG", "LC_ALL", "TZ")
_DAEMON_FROM_OUTSIDE = ("SSL_CERT_DIR", "SSL_CERT_FILE")


class Service:
    """One unit's process. :meth:`run` is a task of the supervisor's; cancelling it stops it."""

    def __init__(
        self,
        unit: Unit,
        *,
        places: Places,
        accounts: Accounts,
        all: Sequence[Service],  # noqa: A002
    ) -> None:
        self.unit = unit
        self._places = places
        self._accounts = accounts
        self.pid: int | None = None
        self._all = all

    async def run(self) -> None:
        """Keep the service running as its unit says; returns when it is not to run any more."""
        if self.unit.after_enrolment:
            await self._enrolled()
        delay = self.unit.restart_seconds
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            code = await self._once()
            if not self.unit.restarts_after(code):
                _log.info("%s ended with %s and stays so", self.unit.name, code)
                return
            if loop.time() - begun > _HEALTHY_AFTER:
                delay = self.unit.restart_seconds
            _log.warning("%s ended with %s; again in %.1f s", self.unit.name, code, delay)
            await asyncio.sleep(delay)
            delay = min(max(delay, 0.1) * 2, _LONGEST_DELAY)

    async def _enrolled(self) -> None:
        # No event says portably that a file has come; a look ten times a second costs nothing.
        while not self._places.enrolled.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def _once(self) -> int:
        for command in self.unit.before:
            code = await self._execute(command)
            if code != 0:
                return code
        return await self._execute(self.unit.command)

    async def _execute(self, command: tuple[str, ...]) -> int:
        try:
            process = self._start(command)
        except OSError as error:
            _log.error("%s cannot be started: %s", self.unit.name, error)
            return 203  # EXIT_EXEC of systemd.exec(5)
        self.pid = process.pid
        _log.info("%s runs as %s", self.unit.name, process.pid)
        try:
            await _exited(process.pid)
        except asyncio.CancelledError:
            await self._stop(process)
            raise
        finally:
            self.pid = None
        # What it left behind, in its group or not, would run beside its successor.
        _signal_group(process.pid, signal.SIGKILL)
        code = process.wait()
        end_orphans(pids(self._all))
        return code

    def _start(self, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        account = self._accounts.find(self.unit.user)
        identity: dict[str, object] = {}
        if self._accounts.separate:
            # The daemon is in the agent's group, to share its socket; the agent is in none.
            groups = [self._accounts.agent.gid] if self.unit.user == "aura" else []
            identity = {"user": account.uid, "group": account.gid, "extra_groups": groups}
        with self._log_file() as log:
            return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self.unit.working_directory,
                umask=0o077 if self.unit.user == "aura" else 0o027,
                start_new_session=True,
                # The supervisor has one thread, so nothing can hold a lock over the fork; and this
                # way a supervisor that is killed leaves no daemon behind that nobody watches.
                preexec_fn=kernel.die_with_parent,  # noqa: PLW1509
                **identity,
            )

    def _environment(self) -> Mapping[str, str]:
        """Only what is listed: the host's environment holds the control plane's secrets."""
        unit, places = self.unit, self._places
        account = self._accounts.agent
        programs = str(Path(sys.executable).parent)
        kept = _FROM_OUTSIDE + (_DAEMON_FROM_OUTSIDE if unit.user == "aura" else ())
        return {
            **unit.environment,
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(places.state if unit.user == "aura" else places.home),
            "AURA_ROOT": str(places.directory),
            "AURA_PYTHON": sys.executable,
            "AURA_BROKER_SOCKET": str(places.broker_socket),
            **(
                {
                    "AURA_VMD_LISTEN": "127.0.0.1:0",
                    "AURA_AGENT_USER": f"{account.uid}:{account.gid}",
                }
                if unit.user == "aura"
                else {}
            ),
        }

    def _log_file(self) -> _LogFile:
        return _LogFile(self._places.logs / f"{self.unit.name}.log")

    async def _stop(self, process: subprocess.Popen[bytes]) -> None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(self.unit.stop_seconds):
                await _exited(process.pid)
        except TimeoutError:
            _log.warning("%s did not stop in time and is killed", self.unit.name)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


class _LogFile:
    """The service's log, open for the start of a process; the one before is kept once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        with suppress(FileNotFoundError):
            if self._path.stat().st_size > _LARGEST_LOG:
                self._path.rename(self._path.with_suffix(".log.1"))
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return self._handle

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


async def _exited(pid: int) -> None:
    """Wait for a child's end, without reaping it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    handle = os.pidfd_open(pid)
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def pids(services: Sequence[Service]) -> list[int]:
    """The processes that are somebody's service at the moment."""
    return [service.pid for service in services if service.pid is not None]


def reap_orphans(known: Collection[int]) -> None:
    """Collect children that are nobody's service and have ended."""
    for pid in _children() - set(known):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_orphans(known: Collection[int]) -> None:
    """Kill and collect every child that is nobody's service, and theirs, until there is none."""
    while orphans := _children() - set(known):
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # The name in parentheses may hold anything, so the fields are counted behind it.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found
