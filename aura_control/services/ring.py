"""The keyring's file: the one truth that all processes of a host share."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from aura_control.logs import get_logger
from aura_core.crypto import Keyring
from aura_core.errors import AuraError, ConfigurationError
from aura_core.secret_stores import SecretStores

__all__ = ["RingFile", "read_secret", "write_secret"]

_log = get_logger(__name__)

_Signature = tuple[int, int, int]


class RingFile:
    """Reads and writes the keyring. Its methods block: call them in a thread where a loop runs.

    What a secret store answered is kept for as long as the entry is the same, so that a changed
    file asks the store for the new key only. Safe to use from several threads.
    """

    def __init__(self, path: Path, stores: SecretStores) -> None:
        self.path = path
        self.ring: Keyring | None = None
        """What was read last."""
        self._stores = stores
        self._fetched: dict[tuple[str, str], bytes] = {}
        self._seen: _Signature | None = None
        self._complaint: str | None = None
        self._lock = threading.Lock()

    def read(self) -> Keyring:
        """The keyring as the file has it.

        Raises ConfigurationError for a file that is missing, readable by others or no keyring, and
        what a secret store raises.
        """
        with self._lock:
            # The signature is taken first: what is written in between is noticed the next time.
            seen = self._signature()
            ring = Keyring.parse(
                read_secret(self.path, "AURA_MASTER_KEYS_FILE").decode("utf-8", "replace"),
                fetch=self._fetch,
            )
            self._seen, self.ring = seen, ring
            return ring

    def newer(self) -> Keyring | None:
        """The keyring if its file changed since it was read; None if it did not.

        A file that cannot be used now, or a store that does not answer, is logged once and asked
        for again at the next call: the keys that are known go on working.
        """
        if self._signature() == self._seen:
            return None
        try:
            ring = self.read()
        except AuraError as error:
            if error.message != self._complaint:
                _log.error("keyring_not_reloaded", reason=error.message)
                self._complaint = error.message
            return None
        self._complaint = None
        _log.info("keyring_reloaded", active=ring.active)
        return ring

    def write(self, ring: Keyring) -> None:
        """Replaces the file, whole or not at all, readable by its owner only."""
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            write_secret(temporary, ring.dump().encode())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(self.path.parent)

    def _fetch(self, kid: str, reference: str) -> bytes:
        known = self._fetched.get((kid, reference))
        if known is None:
            known = self._fetched[kid, reference] = self._stores.fetch(kid, reference)
        return known

    def _signature(self) -> _Signature | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def read_secret(path: Path, variable: str) -> bytes:
    """A file that only its owner may read. Raises ConfigurationError."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(
                f"{path} can be read by others.", hint=f"Run: chmod 600 {path}"
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.",
            hint=f"Run 'aura up' once, or name the file in {variable}.",
        ) from None


def write_secret(path: Path, content: bytes) -> None:
    """Creates a file for its owner only and writes it through to the disk.

    Raises FileExistsError rather than write over another, and OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_directory(path: Path) -> None:
    """The new name survives a power failure too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
