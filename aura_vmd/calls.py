"""One call of the agent's on its way through the broker."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aura_core.permissions import TokenReader

__all__ = ["LONGEST_PATH", "Call"]

LONGEST_PATH = 2048
"""Characters of a path that are recorded."""


@dataclass(kw_only=True)
class Call:
    """Filled in as more of it is known."""

    method: str
    provider: str
    host: str | None = None
    path: str | None = None
    rule: str | None = None
    status: int | None = None
    received: int = 0
    problem: str | None = None
    cut: bool = False
    """Part of the answer is out, and the rest will not come."""
    sent: bool = False
    """From here on the provider may have seen it."""
    size: int = 0
    """Bytes of the body that were sent."""
    reader: TokenReader | None = None
    """Until what the call cost is counted."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.monotonic)

    def entry(self, outcome: str) -> dict[str, Any]:
        """A line of the action log."""
        known = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self.id,
            "outcome": outcome,
            "method": self.method[:16],
            "provider": self.provider[:64],
            "host": self.host,
            "path": self.path and self.path[:LONGEST_PATH],
            "rule": self.rule,
            "status": self.status,
            "bytes": self.received,
            "problem": self.problem,
            "ms": round((time.monotonic() - self.began) * 1000),
        }
        return {name: value for name, value in known.items() if value is not None}
