"""Rows of the outbox as the repositories take them in and hand them out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from aura_control.db.models import DeliveryOp

__all__ = ["Acknowledged", "Key", "Receipt", "Sealed", "Setback"]


class Key(NamedTuple):
    """Names a row of the outbox."""

    instance_id: str
    subject: str


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """The message of a revision; ``digest`` is its SHA-256 (hexadecimal)."""

    key: Key
    revision: int
    message: bytes
    digest: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a machine's verified acknowledgement says."""

    key: Key
    tenant_id: str
    revision: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """What became of a receipt."""

    changed: bool
    """Whether it said something new."""
    settled: bool
    """Whether the machine now holds what it should of the subject."""
    op: DeliveryOp | None
    """What is wanted; None without such a row."""


@dataclass(frozen=True, kw_only=True)
class Setback:
    """An attempt of a revision that failed; ``error`` is for a person and holds no secret."""

    key: Key
    revision: int
    error: str
    retry_at: datetime
