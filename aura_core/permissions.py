"""What an agent may do, and the one judgement of it that broker and control plane share.

The request itself is judged, whatever tool it claims to come from: the manifest's rules map method
and path to a permission scope, and what no rule names needs ``api:outbound``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict

from aura_core.credentials import BrokerBinding
from aura_core.errors import PermissionDenied
from aura_core.manifest import OUTBOUND, PermissionScope, Rule
from aura_core.placement import Target

__all__ = ["AgentPermissions", "Decision", "judge", "require"]


class AgentPermissions(BaseModel):
    """Boundaries of one agent. Without scopes it can do nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["policy"] = "policy"
    scopes: frozenset[PermissionScope] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``rule`` is the stable name of what decided: ``scope:email:send``."""

    allowed: bool
    needs: tuple[str, ...]
    rule: str


def judge(
    binding: BrokerBinding, permissions: AgentPermissions, *, method: str, target: Target
) -> Decision:
    """Decide about one request.

    A path with an encoded slash reads in two ways: as one segment, or, to a server that decodes
    before it routes, as two. Both readings are judged and both must be granted, so that encoding
    cannot turn a call that needs ``email:send`` into one that needs ``email:read``.
    """
    raw = [unquote(segment) for segment in target.path.split("/")[1:]]
    readings = [raw]
    if any("/" in segment for segment in raw):
        readings.append(unquote(target.path).split("/")[1:])
    needs = tuple(dict.fromkeys(_needed(binding, method, target, reading) for reading in readings))
    for scope in needs:
        if scope not in permissions.scopes:
            return Decision(allowed=False, needs=needs, rule=f"scope:{scope}")
    return Decision(allowed=True, needs=needs, rule=f"scope:{needs[0]}")


def require(
    binding: BrokerBinding, permissions: AgentPermissions, *, method: str, target: Target
) -> Decision:
    """Like :func:`judge`, raising :class:`PermissionDenied` with the rule that refused."""
    decision = judge(binding, permissions, method=method, target=target)
    if not decision.allowed:
        scope = decision.rule.removeprefix("scope:")
        raise PermissionDenied(
            f"This agent may not do that with {binding.provider}: it needs the scope {scope}.",
            rule=decision.rule,
            hint=f"Its owner can add {scope} to the agent's permissions.",
        )
    return decision


def _needed(binding: BrokerBinding, method: str, target: Target, segments: list[str]) -> str:
    for rule in binding.rules:
        if method in rule.methods and _host_matches(rule, target) and _matches(rule.path, segments):
            return rule.scope
    return OUTBOUND


def _host_matches(rule: Rule, target: Target) -> bool:
    return target.on_base_host if rule.host is None else rule.host == target.host


def _matches(pattern: str, segments: list[str]) -> bool:
    return _match(pattern.split("/")[1:], segments)


def _match(pattern: list[str], segments: list[str]) -> bool:
    if not pattern:
        return not segments
    if pattern[0] == "**":
        return any(_match(pattern[1:], segments[n:]) for n in range(len(segments) + 1))
    if not segments:
        return False
    one = re.fullmatch(re.escape(pattern[0]).replace(r"\*", ".*"), segments[0], re.DOTALL)
    return one is not None and _match(pattern[1:], segments[1:])
