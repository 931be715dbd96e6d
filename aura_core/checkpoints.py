"""Signed checkpoints of the audit log, and the places where they are kept.

A chain of MACs shows every change but one: whoever cuts its tail off leaves a shorter chain that is
whole. And whoever holds the keys can write another history that is whole, too. Both show against a
statement that was signed before and lies where they cannot reach it: "entry ``seq`` of this tenant
had this ``mac``".
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from aura_core.encoding import b64url, load_object, lp, unb64url
from aura_core.errors import ConfigurationError, Conflict, MalformedMessage
from aura_core.wire import ControlKeys, check_signature

__all__ = ["Checkpoint", "CheckpointStore", "FileCheckpoints", "checkpoint_name"]

MAX_BYTES = 4096
"""The largest checkpoint that is read."""

_FIELDS = {"v", "tenant_id", "seq", "mac", "at", "previous", "signer_kid", "sig"}
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
_NAME = re.compile(rf"(?:{_TENANT.pattern})/[0-9]{{20}}\.json", re.ASCII)
_LARGEST = 2**53 - 1


class CheckpointStore(Protocol):
    """A kind of place for checkpoints: what ``aura_checkpoint_stores`` returns instances of.

    Synchronous, and called in threads; every call has a time-out of some ten seconds and few
    retries. Raises ``ConfigurationError`` (address, login, permission: the operator's move) and
    ``ProviderUnavailable`` (not reached: tried again later).
    """

    scheme: str
    """What the URL of a place begins with: ``s3``; ``file`` is built in."""

    def put(self, place: str, name: str, content: bytes) -> None:
        """Keeps ``content`` durably. The same again is no error; other content under a name that
        is taken raises ``Conflict`` and changes nothing."""
        ...

    def get(self, place: str, name: str) -> bytes | None:
        """What is kept under the name."""
        ...

    def names(self, place: str, prefix: str) -> Iterable[str]:
        """The names that begin with ``prefix``, sorted."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Entry ``seq`` of a tenant's chain had ``mac``. A pure function of that entry and of
    ``previous``, the ``seq`` of the checkpoint before (0: none), so that asking for it again, from
    whatever process, makes the same bytes. ``previous`` makes a missing one show.

    ``at`` is the entry's time (ISO 8601, microseconds, UTC). Raises ``MalformedMessage``.
    """

    tenant_id: str
    seq: int
    mac: str
    at: str
    previous: int

    def __post_init__(self) -> None:
        for name, form in (("tenant_id", _TENANT), ("mac", _HEX), ("at", _TIME)):
            value = getattr(self, name)
            if not isinstance(value, str) or not form.fullmatch(value):
                raise MalformedMessage(f"A checkpoint's {name} has another form.")
        if type(self.seq) is not int or type(self.previous) is not int:
            raise MalformedMessage("A checkpoint's numbers are whole.")
        if not 0 <= self.previous < self.seq <= _LARGEST:
            raise MalformedMessage("A checkpoint comes after the previous one.")

    @property
    def name(self) -> str:
        """What it is kept under."""
        return checkpoint_name(self.tenant_id, self.seq)

    def sign(self, keys: ControlKeys) -> bytes:
        """The checkpoint as it is kept: JSON with Ed25519 (RFC 8032) over all its fields."""
        signature = keys.sign(self._signed(keys.signer_kid))
        document = {"v": 1, **asdict(self), "signer_kid": keys.signer_kid, "sig": b64url(signature)}
        pairs = (f'"{name}":{_spelt(value)}' for name, value in document.items())
        return ("{" + ",".join(pairs) + "}\n").encode()

    @classmethod
    def verify(cls, raw: bytes, signers: Mapping[str, bytes]) -> Checkpoint:
        """Reads what :meth:`sign` made. ``signers`` are public keys by key id.

        Raises ``MalformedMessage``, and ``SignatureInvalid`` for a signature that does not verify
        or a signer that is not known.
        """
        if len(raw) > MAX_BYTES:
            raise MalformedMessage(f"The checkpoint is larger than {MAX_BYTES} bytes.")
        try:
            document = load_object(raw)
            if document.keys() != _FIELDS or document.pop("v") != 1:
                raise ValueError("is of another version")
            signature = unb64url(document.pop("sig"), length=64)
        except ValueError as error:
            raise MalformedMessage(f"The checkpoint {error}.") from None
        kid = document.pop("signer_kid")
        checkpoint = cls(**document)
        if not isinstance(kid, str):
            raise MalformedMessage("The checkpoint does not name its signer.")
        # An unknown signer is checked against no key at all: b"" verifies nothing.
        check_signature(
            signers.get(kid, b""), signature, checkpoint._signed(kid), what="the checkpoint"
        )
        return checkpoint

    def stated_by(self, raw: bytes) -> bool:
        """Whether ``raw``, whoever signed it, says the same of the same entry."""
        try:
            document = load_object(raw)
        except ValueError:
            return False
        return {name: document.get(name) for name in asdict(self)} == asdict(self)

    def _signed(self, kid: str) -> bytes:
        return lp(
            "aura-audit-checkpoint/v1",
            self.tenant_id,
            self.seq,
            self.mac,
            self.at,
            self.previous,
            kid,
        )


def checkpoint_name(tenant_id: str, seq: int) -> str:
    """``<tenant id>/<seq, 20 digits>.json``."""
    return f"{tenant_id}/{seq:020d}.json"


def _spelt(value: str | int) -> str:
    # Ids, hexadecimal digits, times and base64url: nothing that JSON would escape.
    return str(value) if isinstance(value, int) else f'"{value}"'


class FileCheckpoints:
    """``file:///directory``: a file for each checkpoint, for its owner only.

    Meant for a directory of another machine or medium. It never overwrites: a link that fails
    where the name is taken is atomic, on network file systems too.
    """

    scheme = "file"

    def put(self, place: str, name: str, content: bytes) -> None:
        """See ``CheckpointStore``."""
        path = self._path(place, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.link(temporary, path)
            finally:
                temporary.unlink()
            _sync_directory(path.parent)
        except FileExistsError:
            if self.get(place, name) != content:
                raise Conflict(f"{path} holds another checkpoint.") from None
        except OSError as error:
            raise _unusable(path, error) from None

    def get(self, place: str, name: str) -> bytes | None:
        """See ``CheckpointStore``."""
        path = self._path(place, name)
        try:
            with path.open("rb") as handle:
                return handle.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(path, error) from None

    def names(self, place: str, prefix: str) -> Iterable[str]:
        """See ``CheckpointStore``."""
        root = _root(place)
        tenants = [prefix.partition("/")[0]] if "/" in prefix else _entries(root)
        found = (f"{tenant}/{entry}" for tenant in tenants for entry in _entries(root / tenant))
        return sorted(name for name in found if name.startswith(prefix) and _NAME.fullmatch(name))

    @staticmethod
    def _path(place: str, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError("a checkpoint's name is <tenant>/<20 digits>.json")
        return _root(place) / name


def _root(place: str) -> Path:
    parts = urlsplit(place)
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc or not path.is_absolute():
        raise ConfigurationError(f"{place} is not file:///directory.")
    return path


def _entries(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unusable(directory, error) from None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The checkpoint {path} cannot be used: {error.strerror or error}.",
        hint="Is AURA_AUDIT_CHECKPOINTS a directory that Aura may write to?",
    )
