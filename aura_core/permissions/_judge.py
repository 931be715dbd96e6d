"""The one judgement of a request that broker and control plane share.

The request itself is judged, whatever tool it claims to come from: the manifest's rules map method
and path to a permission scope, and what no rule names needs ``api:outbound``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from aura_core.credentials import BrokerBinding
from aura_core.errors import PermissionDenied
from aura_core.manifest import OUTBOUND, Rule, TokenUsage
from aura_core.permissions._domains import host_of, is_within
from aura_core.permissions._model import AgentPermissions
from aura_core.placement import Target

__all__ = ["Decision", "judge", "require"]

F = TypeVar("F", Rule, TokenUsage)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """``rule`` is the stable name of what decided: ``scope:email:send``, ``domain:evil.example``.

    ``usage`` says where the answer tells how many tokens it cost, for a call that costs some of an
    agent whose tokens are limited.
    """

    allowed: bool
    needs: tuple[str, ...]
    rule: str
    usage: TokenUsage | None = None


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
    host = host_of(target.host)
    if permissions.allowed_domains is not None and (
        host is None or not is_within(host, permissions.allowed_domains)
    ):
        return Decision(allowed=False, needs=needs, rule=f"domain:{host or target.host}")
    usage = None
    if permissions.max_daily_token_spend is not None:
        found = (_first(binding.usage, method, target, reading) for reading in readings)
        usage = next((facts for facts in found if facts is not None), None)
    return Decision(allowed=True, needs=needs, rule=f"scope:{needs[0]}", usage=usage)


def require(
    binding: BrokerBinding, permissions: AgentPermissions, *, method: str, target: Target
) -> Decision:
    """Like :func:`judge`, raising :class:`PermissionDenied` with the rule that refused."""
    decision = judge(binding, permissions, method=method, target=target)
    if decision.allowed:
        return decision
    kind, _, name = decision.rule.partition(":")
    if kind == "domain":
        raise PermissionDenied(
            f"This agent may not call {name}: it is not among its allowed domains.",
            rule=decision.rule,
            hint=f"Its owner can add {name} to the agent's allowed domains.",
        )
    raise PermissionDenied(
        f"This agent may not do that with {binding.provider}: it needs the scope {name}.",
        rule=decision.rule,
        hint=f"Its owner can add {name} to the agent's permissions.",
    )


def _needed(binding: BrokerBinding, method: str, target: Target, segments: list[str]) -> str:
    rule = _first(binding.rules, method, target, segments)
    return OUTBOUND if rule is None else rule.scope


def _first(facts: Iterable[F], method: str, target: Target, segments: list[str]) -> F | None:
    """The first that a request matches."""
    for fact in facts:
        if method in fact.methods and _host_matches(fact, target) and _matches(fact.path, segments):
            return fact
    return None


def _host_matches(fact: Rule | TokenUsage, target: Target) -> bool:
    return target.on_base_host if fact.host is None else fact.host == target.host


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
