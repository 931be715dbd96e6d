"""The counter of one agent, as whoever makes its calls uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aura_core.permissions._judge import Decision

__all__ = ["Meter", "Taken"]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A call that was counted: under which scopes, and in which minute."""

    whats: tuple[str, ...]
    minute: int


class Meter(Protocol):
    """Counts durably. The order is the protection: a call is counted before it is made, so that
    whatever happens in between, none is made for nothing."""

    async def take(self, decision: Decision) -> Taken:
        """Count one call. Raises :class:`LimitReached`, or where the budget is nought
        :class:`PermissionDenied`, and then nothing is counted."""

    async def refund(self, taken: Taken) -> None:
        """Take the count back: the call was never sent."""

    async def spend(self, tokens: int) -> None:
        """Count tokens that an answer reported."""
