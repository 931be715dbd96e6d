"""What an agent may do: scopes, how often, where, and for how many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aura_core.manifest import PermissionScope
from aura_core.permissions._domains import DomainPattern

__all__ = ["LARGEST", "AgentPermissions", "CallLimits"]

LARGEST = 10**12
"""The largest number that a limit may be: every database and JSON reader keeps it exactly."""

Calls = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]


class CallLimits(BaseModel):
    """How many calls of one scope may be made, in any hour and in any day; at least one is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_per_hour: Calls | None = None
    max_per_day: Calls | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.max_per_hour is None and self.max_per_day is None:
            raise ValueError("sets neither max_per_hour nor max_per_day")
        return self


class AgentPermissions(BaseModel):
    """Boundaries of one agent. Without scopes it can do nothing; what else is left out bounds
    nothing. A policy that was stored before a field existed reads as one without it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["policy"] = "policy"
    scopes: frozenset[PermissionScope] = frozenset()
    rate_limits: Annotated[Mapping[PermissionScope, CallLimits], Field(max_length=200)] = Field(
        default_factory=dict
    )
    """Scope to limits. An hour is the last sixty minutes and a day the last 24 hours, at any
    moment: there is no midnight at which a second helping begins."""
    allowed_domains: Annotated[tuple[DomainPattern, ...], Field(max_length=500)] | None = None
    """Beyond what the manifests' hosts allow: ``None`` restricts nothing more, a list only lets
    through what it names, and an empty list nothing. ``api.example.com`` is that host,
    ``*.example.com`` every host below it."""
    max_daily_token_spend: Annotated[int, Field(ge=0, le=LARGEST, strict=True)] | None = None
    """Tokens of language models in any 24 hours, as the providers count them."""

    @field_validator("allowed_domains")
    @classmethod
    def _each_once(cls, domains: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if domains is None else tuple(sorted(set(domains)))
