"""Machines as directories and processes of this host: the embedded default.

A machine is recorded before anything of it is made, so that whatever a crash leaves is found
again: ``create`` goes on where an earlier one ended, ``destroy`` removes whatever there is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from aura_core.compute import Machine, MachineRequest
from aura_core.errors import ComputeError
from aura_plugin_local.accounts import Accounts, choose_accounts
from aura_plugin_local.applying import apply, remove_tree
from aura_plugin_local.identity import ProcessIdentity
from aura_plugin_local.machine import EXIT_RUNNING
from aura_plugin_local.record import MachineRecord, Places, check_name, locked
from aura_plugin_local.userdata import read_user_data

__all__ = ["LocalCompute"]

_log = logging.getLogger(__name__)

_SUPERVISOR = "import sys; from aura_plugin_local.machine import main; sys.exit(main())"
_START_SECONDS = 90.0
_STOP_SECONDS = 45.0
_END_SECONDS = 10.0
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TZ")


class LocalCompute:
    """Implements :class:`aura_core.compute.Compute` below the directory ``root``."""

    id = "local"
    name = "This host"

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._locks = self._root / ".locks"

    async def create(self, request: MachineRequest) -> Machine:
        """See the contract. The machine is started, and may still be ``starting``."""
        return await asyncio.to_thread(self._create, request)

    async def find(self, name: str) -> Machine | None:
        return await asyncio.to_thread(self._find, name)

    async def machines(self) -> list[Machine]:
        return await asyncio.to_thread(lambda: [_machine(p, r) for p, r in self._records()])

    async def destroy(self, name: str) -> None:
        await asyncio.to_thread(self._destroy, name)

    async def aclose(self) -> None:
        """Nothing is held; machines go on."""

    def _places(self, name: str) -> Places:
        check_name(name)
        return Places(self._root / name)

    def _create(self, request: MachineRequest) -> Machine:
        places = self._places(request.name)
        places.check_length()
        user_data = read_user_data(request.user_data)
        with locked(self._locks / request.name):
            record = MachineRecord.read(places.record) or self._record(places, request)
            if dict(record.labels) != dict(request.labels):
                raise ComputeError(
                    f"There is another machine of the name {request.name}.", retryable=False
                )
            if not record.applied:
                apply(places, user_data, record.accounts)
                record = record.model_copy(update={"applied": True})
                record.write(places.record)
            if not _running(places):
                _start(places)
            return _machine(places, record)

    def _record(self, places: Places, request: MachineRequest) -> MachineRecord:
        """Write down that the machine is to be, and whose its processes will be."""
        with locked(self._locks / "-accounts"):
            taken = [
                account.uid
                for _, other in self._records()
                for account in (other.accounts.daemon, other.accounts.agent)
            ]
            accounts = choose_accounts(request.name, taken=taken)
            remove_tree(places.directory)  # what a destroy that was interrupted has left
            places.directory.mkdir(parents=True)
            places.directory.chmod(0o755)
            record = MachineRecord(
                name=request.name,
                labels=dict(request.labels),
                created_at=datetime.now(UTC),
                accounts=accounts,
                isolation=_isolation(accounts),
            )
            record.write(places.record)
        return record

    def _records(self) -> Iterator[tuple[Places, MachineRecord]]:
        for path in sorted(self._root.glob("*/machine.json")):
            try:
                record = MachineRecord.read(path)
            except ComputeError as error:
                # A whole sentence: the control plane's log shows no arguments of a plugin's.
                _log.error("the record of a local machine cannot be read, so it is left alone")
                _log.debug("%s", error)
                continue
            if record is not None:
                yield Places(path.parent), record

    def _find(self, name: str) -> Machine | None:
        places = self._places(name)
        record = MachineRecord.read(places.record)
        return None if record is None else _machine(places, record)

    def _destroy(self, name: str) -> None:
        places = self._places(name)
        with locked(self._locks / name):
            if not places.directory.exists():
                return
            supervisor = ProcessIdentity.read(places.lock)
            if supervisor is not None and not (
                supervisor.end(signal.SIGTERM, seconds=_STOP_SECONDS)
                or supervisor.end(signal.SIGKILL, seconds=5)
            ):
                raise ComputeError(f"The machine {name} does not stop.", retryable=True)
            record = None
            with suppress(ComputeError):  # a damaged record must not keep a machine alive
                record = MachineRecord.read(places.record)
            if record is not None and record.accounts.separate:
                _end_users(record.accounts)
            remove_tree(places.directory)
            if places.directory.exists():
                raise ComputeError(f"{places.directory} cannot be removed.", retryable=True)


def _isolation(accounts: Accounts) -> str:
    if accounts.separate:
        return "separate users: the agent cannot read the daemon's files or memory"
    return "one user: the agent could read the daemon's files; start Aura as root to separate them"


def _running(places: Places) -> bool:
    supervisor = ProcessIdentity.read(places.lock)
    return supervisor is not None and supervisor.alive


def _start(places: Places) -> None:
    """Start the supervisor and wait until it stands. Raises :class:`ComputeError`."""
    # A list of what is passed on, not of what is left out: this process's environment holds the
    # control plane's secrets, and /proc shows a process's environment to its user.
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        started = subprocess.run(
            [sys.executable, "-I", "-c", _SUPERVISOR, places.directory],
            stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd="/",
            timeout=_START_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ComputeError(f"{places.directory} did not start in time.", retryable=True) from None
    if started.returncode not in (0, EXIT_RUNNING):
        reason = started.stderr.decode(errors="replace").strip()[-1000:]
        raise ComputeError(f"The machine cannot be started: {reason}", retryable=False)


def _machine(places: Places, record: MachineRecord) -> Machine:
    running = _running(places)
    url = _push_url(places) if running else None
    return Machine(
        name=record.name,
        external_id=f"local:{record.name}",
        state="off" if not running else "starting" if url is None else "running",
        push_url=url,
        created_at=record.created_at,
    )


def _push_url(places: Places) -> str | None:
    """Where the daemon says that it listens: believed only if that is this host."""
    try:
        document = json.loads(places.listen.read_bytes())
        host, port = document["host"], document["port"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host not in ("127.0.0.1", "::1") or not isinstance(port, int) or not 0 < port < 65536:
        return None
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _end_users(accounts: Accounts) -> None:
    """Kill what still runs as one of the machine's users, of which no other machine has any.

    Looks again until there is nothing: one that was just beginning another leaves that behind.
    Raises :class:`ComputeError`.
    """
    users = {accounts.daemon.uid, accounts.agent.uid}
    latest = time.monotonic() + _END_SECONDS
    while left := ProcessIdentity.of_user(users):
        if time.monotonic() > latest:
            raise ComputeError(f"{len(left)} of the machine's processes stay.", retryable=True)
        for process in left:
            process.end(signal.SIGKILL, seconds=1)
