"""The contract of runtimes: what runs as the agent on its machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from aura_core.skills import VmSystemdService, VmWriteFile

__all__ = ["AgentSpec", "Readiness", "Runtime", "RuntimePlan"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgentSpec(_Value):
    """What a runtime is told of the agent: no secret among it."""

    agent_id: str
    name: str
    persona: Mapping[str, str] = Field(default_factory=dict)
    config: Mapping[str, Any] = Field(default_factory=dict)


class Readiness(_Value):
    """How the daemon asks whether the runtime works: GET on a Unix socket or a loopback port."""

    socket: Annotated[str, StringConstraints(pattern=r"^/run/agent/")] | None = None
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    path: Annotated[str, StringConstraints(pattern=r"^/")] = "/readyz"


class RuntimePlan(_Value):
    """The runtime's part of a machine. Files are absolute below ``/var/lib/agent/``."""

    runtime: str
    write_files: tuple[VmWriteFile, ...] = ()
    services: tuple[VmSystemdService, ...]
    """They run as the user ``agent``; composing enforces it and orders them after enrolment."""
    readiness: Readiness
    needs: tuple[Literal["node"], ...] = ()


class Runtime(Protocol):
    """What a runtime plugin's ``aura_runtimes`` hook returns instances of."""

    id: str
    name: str

    def plan(self, spec: AgentSpec) -> RuntimePlan:
        """The files and services for one agent, a pure function of ``spec``.

        Raises :class:`aura_core.errors.InvalidInput` (``fields`` below ``config``) for a
        configuration that this runtime cannot use.
        """
        ...
