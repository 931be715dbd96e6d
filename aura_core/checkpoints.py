"""The contract of places for the audit log's signed checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["CheckpointStore"]


class CheckpointStore(Protocol):
    """What a plugin's ``aura_checkpoint_stores`` hook returns instances of. Its methods block."""

    scheme: str

    def put(self, place: str, name: str, content: bytes) -> None:
        """Keeps ``content``; other content under a name that is taken raises ``Conflict``."""
        ...

    def get(self, place: str, name: str) -> bytes | None:
        """What is kept under the name."""
        ...

    def names(self, place: str, prefix: str) -> Iterable[str]:
        """The names that begin with ``prefix``, sorted."""
        ...
