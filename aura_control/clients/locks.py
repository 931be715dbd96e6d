"""Locks between processes that die with their holder.

A lease that runs out would let a second process refresh a token while the first one, slow or
stopped, still waits for the provider's answer. A file lock and a database session's lock end when
their holder ends, and not before.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aura_control.ports import LockTaken

__all__ = ["WAIT_SECONDS", "FileLocks", "too_long"]

WAIT_SECONDS = 60.0
"""How long ``hold`` waits if it is not told."""


def too_long() -> LockTaken:
    """What a wait ends with that did not get the lock."""
    return LockTaken(
        "Another process of Aura is busy with this connection.", hint="Try again in a moment."
    )


class FileLocks:
    """``Locks`` by flock(2), for the processes of one host."""

    def __init__(self, directory: Path, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._directory = directory
        self._wait_seconds = wait_seconds
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @asynccontextmanager
    async def hold(self, name: str, *, wait: float | None = None) -> AsyncIterator[None]:
        """See ``ports.Locks``."""
        path = self._directory / hashlib.sha256(name.encode()).hexdigest()[:32]
        waiting = _Waiting(path)
        try:
            if not waiting.taken():
                patience = self._wait_seconds if wait is None else wait
                if patience <= 0:
                    raise too_long()
                try:
                    async with asyncio.timeout(patience):
                        await waiting.locked()
                except TimeoutError:
                    raise too_long() from None
            yield
        finally:
            waiting.end()


class _Waiting:
    """One wait for one lock, in a thread of its own because flock(2) blocks.

    A thread that waits cannot be cancelled. It is told that nobody wants the lock any more, and
    then lets go of it the moment it gets it; as a daemon it does not keep the process from ending.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self._mutex = threading.Lock()
        self._blocking = self._ended = False

    def taken(self) -> bool:
        """Takes the lock if it is free."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def locked(self) -> None:
        """Waits for the lock, without end."""
        self._blocking = True
        threading.Thread(target=self._block, name="aura-lock", daemon=True).start()
        await self._future

    def end(self) -> None:
        """Lets go of the lock, or of the wait for it."""
        with self._mutex:
            self._ended = True
            # While the thread is in flock(2) it closes the file itself, once it is out.
            if not self._blocking:
                os.close(self._descriptor)

    def _block(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._mutex:
            self._blocking = False
            if self._ended:
                os.close(self._descriptor)
                return
            # Within the mutex: as long as nobody has let go, the loop is there to be woken.
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
