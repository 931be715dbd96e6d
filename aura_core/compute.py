"""The contract of computes: where agents' machines come from.

The control plane records a machine's name before it asks for it; so a compute must find by name
what an earlier, lost request made, and adopt it. Every method may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

__all__ = ["Compute", "HostContext", "Machine", "MachineRequest"]


@dataclass(frozen=True, kw_only=True)
class HostContext:
    """What the host gives plugins at start: a directory of their own, the operator's settings."""

    data_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that begin with ``AURA_``, without the control plane's own."""


@dataclass(frozen=True, kw_only=True)
class MachineRequest:
    """A machine to be made. ``name`` is deterministic and unique; ``labels`` prove ownership."""

    name: str
    user_data: str = field(repr=False)
    """``base64(gzip(#cloud-config))``; holds the join token, hence not in the repr."""
    labels: Mapping[str, str]
    region: str | None = None
    size: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that exists. ``push_url`` is where the daemon listens, once it is known."""

    name: str
    external_id: str
    state: Literal["starting", "running", "off"]
    push_url: str | None = None
    created_at: datetime | None = None


class Compute(Protocol):
    """What a compute plugin's ``aura_computes`` hook returns instances of."""

    id: str
    name: str

    async def create(self, request: MachineRequest) -> Machine:
        """Make the machine, or adopt the one that has this name and our labels. It is started
        where it is off: this is also how a machine comes back after its host was restarted.

        Raises :class:`aura_core.errors.ComputeError`.
        """
        ...

    async def find(self, name: str) -> Machine | None:
        """The machine of that name, or ``None``."""
        ...

    async def machines(self) -> list[Machine]:
        """All machines that are ours: one call for all, for sweeps."""
        ...

    async def destroy(self, name: str) -> None:
        """End the machine and free all it used. Succeeds when there is nothing left."""
        ...

    async def aclose(self) -> None:
        """Free the compute's own resources; machines go on."""
        ...
