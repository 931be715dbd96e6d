"""How a thing in a Hetzner project is known as Aura's: by its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aura_core.errors import ComputeError

__all__ = ["MACHINE", "OURS", "SELECTOR", "check_name", "checked_labels", "is_ours", "labels_of"]

OURS = {"managed-by": "aura"}
"""On everything that Aura makes. What lacks it is never changed, adopted or deleted."""

SELECTOR = "managed-by=aura"
MACHINE = "aura-machine"
"""On addresses and snapshots: the name of the machine that they belong to."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


def check_name(name: str) -> None:
    """A server's name is a host name (RFC 1123); ours have no dots. Raises ComputeError."""
    if not _NAME.fullmatch(name):
        raise ComputeError(f"{name!r} cannot be the name of a server.", retryable=False)


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The request's labels and ours. Raises ComputeError for what Hetzner does not take as one."""
    for key, value in labels.items():
        if not key or not _LABEL.fullmatch(key) or not _LABEL.fullmatch(value):
            raise ComputeError(f"{key!r} cannot be a label at Hetzner.", retryable=False)
    return {**labels, **OURS}


def labels_of(thing: Mapping[str, Any]) -> dict[str, str]:
    return dict(thing.get("labels") or {})


def is_ours(thing: Mapping[str, Any], labels: Mapping[str, str] = OURS) -> bool:
    """Whether it carries all of these labels."""
    return labels.items() <= labels_of(thing).items()
