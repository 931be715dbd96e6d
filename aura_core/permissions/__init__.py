"""What an agent may do: the boundaries, and the one judgement of them.

Broker and control plane share all of it. It does no input or output: where counts are kept is for
whoever implements :class:`Meter`.
"""

from __future__ import annotations

from aura_core.permissions._domains import (
    DomainPattern,
    canonical_host,
    canonical_pattern,
    host_of,
    is_within,
)
from aura_core.permissions._judge import Decision, judge, require
from aura_core.permissions._limits import (
    DAY,
    HOUR,
    TOKENS,
    Count,
    Counts,
    Limit,
    check,
    every_limit,
    limits,
    minute_of,
    used,
)
from aura_core.permissions._meter import Meter, Taken
from aura_core.permissions._model import LARGEST, AgentPermissions, CallLimits
from aura_core.permissions._tokens import TokenReader

__all__ = [
    "DAY",
    "HOUR",
    "LARGEST",
    "TOKENS",
    "AgentPermissions",
    "CallLimits",
    "Count",
    "Counts",
    "Decision",
    "DomainPattern",
    "Limit",
    "Meter",
    "Taken",
    "TokenReader",
    "canonical_host",
    "canonical_pattern",
    "check",
    "every_limit",
    "host_of",
    "is_within",
    "judge",
    "limits",
    "minute_of",
    "require",
    "used",
]
