"""What agents did: counted against their limits here, and taken in from their machines.

A machine is untrusted input. It reports about its own agent only, so a lie about counts costs
nobody else anything; what it may write into the tenant's audit log is bounded in size and rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aura_control.db.engine import Database
from aura_control.db.models import Agent, Instance
from aura_control.db.repositories.limits import CONTROL
from aura_control.db.transaction import Transaction
from aura_core.permissions import (
    DAY,
    HOUR,
    TOKENS,
    AgentPermissions,
    Count,
    Counts,
    Decision,
    Taken,
    check,
    limits,
    minute_of,
)

__all__ = ["REFUSALS_PER_HOUR", "AgentMeter", "Conduct", "Refusal", "take_conduct"]

REFUSALS_PER_HOUR = 200
"""Refused calls of one machine that become audit entries; the others are counted by the next."""

_REFUSED = "refused"
"""What entries are counted under; no scope is called so, because a scope holds a colon."""

_AHEAD = 2
"""Minutes that a machine's clock may be ahead."""

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A refused call as a machine reports it; every text is printable ASCII and short.

    ``seq`` rises from one to the next; ``left_out`` earlier ones were dropped by the machine.
    """

    seq: int
    at: str
    method: str
    provider: str
    host: str
    path: str
    rule: str
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """What a heartbeat says of the agent. ``since`` is the minute from which on the machine wants
    to hear what was used elsewhere; None: it has no limits to count for."""

    counts: tuple[Count, ...] = ()
    since: int | None = None
    refused: tuple[Refusal, ...] = ()


class AgentMeter:
    """The :class:`~aura_core.permissions.Meter` of one agent in the control plane: one table for
    all processes, each call counted in a transaction of its own before it is made."""

    def __init__(self, database: Database, agent: Agent, permissions: AgentPermissions) -> None:
        self._database = database
        self._tenant_id = agent.tenant_id
        self._agent_id = agent.id
        self._permissions = permissions

    async def take(self, decision: Decision) -> Taken:
        """See :meth:`aura_core.permissions.Meter.take`."""
        found = limits(self._permissions, decision)
        if not found:
            return Taken(whats=(), minute=0)
        async with self._database.transaction() as tx:
            await tx.limits.lock(tenant_id=self._tenant_id, agent_id=self._agent_id)
            minute = minute_of(tx.now)
            used = await tx.limits.counts(
                tenant_id=self._tenant_id,
                agent_id=self._agent_id,
                whats={limit.what for limit in found},
                since=minute - max(limit.minutes for limit in found),
            )
            check(found, [Counts(used)], now=tx.now)
            whats = tuple(dict.fromkeys(limit.what for limit in found if limit.what != TOKENS))
            await self._add(tx, [Count(what, minute, 1) for what in whats])
        return Taken(whats=whats, minute=minute)

    async def refund(self, taken: Taken) -> None:
        """See :meth:`aura_core.permissions.Meter.refund`."""
        if taken.whats:
            async with self._database.transaction() as tx:
                await self._add(tx, [Count(what, taken.minute, -1) for what in taken.whats])

    async def spend(self, tokens: int) -> None:
        """See :meth:`aura_core.permissions.Meter.spend`."""
        if tokens > 0:
            async with self._database.transaction() as tx:
                await self._add(tx, [Count(TOKENS, minute_of(tx.now), tokens)])

    async def _add(self, tx: Transaction, counts: Sequence[Count]) -> None:
        await tx.limits.add(
            tenant_id=self._tenant_id, agent_id=self._agent_id, source=CONTROL, counts=counts
        )


async def take_conduct(tx: Transaction, *, instance: Instance, conduct: Conduct) -> dict[str, Any]:
    """Takes in what a heartbeat says of the agent; the fields of its answer."""
    answer: dict[str, Any] = {}
    if conduct.since is not None:
        used = await _take_counts(tx, instance, conduct.counts, conduct.since)
        answer["usage"] = [count._asdict() for count in used]
    if conduct.refused:
        answer["refused_seen"] = await _take_refusals(tx, instance, conduct.refused)
    return answer


async def _take_counts(
    tx: Transaction, instance: Instance, counts: Sequence[Count], since: int
) -> Sequence[Count]:
    """Stores what the machine counted, and answers what everybody else did."""
    agent = await tx.agents.get(tenant_id=instance.tenant_id, agent_id=instance.agent_id)
    permissions = AgentPermissions.model_validate(agent.permissions)
    whats = set(permissions.rate_limits)
    if permissions.max_daily_token_spend is not None:
        whats.add(TOKENS)
    now = minute_of(tx.now)
    who = {"tenant_id": instance.tenant_id, "agent_id": instance.agent_id}
    latest = {
        (count.what, count.minute): count
        for count in counts
        # What no limit asks for would only be rows, and a day's window is all that is ever read.
        if count.what in whats and now - DAY <= count.minute <= now + _AHEAD
    }
    await tx.limits.put(**who, source=instance.id, counts=list(latest.values()))
    return await tx.limits.counts(
        **who, whats=whats, since=max(since, now - DAY), but=instance.id, limit=_AT_ONCE
    )


async def _take_refusals(tx: Transaction, instance: Instance, refused: Sequence[Refusal]) -> int:
    """Audits those that are new, oldest first, as far as the hour leaves room; the number up to
    which the machine may forget them."""
    who = {"tenant_id": instance.tenant_id, "instance_id": instance.id}
    seen = await tx.limits.mark(**who)
    now = minute_of(tx.now)
    new = sorted({r.seq: r for r in refused if r.seq > seen}.values(), key=lambda r: r.seq)
    taken = new[: await _room(tx, instance, now)]
    for refusal in taken:
        facts = {name: getattr(refusal, name) for name in ("at", "method", "host", "path", "rule")}
        left_out = {"left_out": refusal.left_out} if refusal.left_out else {}
        await tx.audit.append(
            instance.tenant_id,
            action="action.refused",
            actor=f"vm:{instance.id}",
            target=f"agent:{instance.agent_id}",
            agent_id=instance.agent_id,
            metadata={"provider": refusal.provider, "seq": refusal.seq, **facts, **left_out},
        )
    if taken:
        seen = taken[-1].seq
        await tx.limits.move_mark(**who, seq=seen)
        await tx.limits.add(
            tenant_id=instance.tenant_id,
            agent_id=instance.agent_id,
            source=instance.id,
            counts=[Count(_REFUSED, now, len(taken))],
        )
    return seen


async def _room(tx: Transaction, instance: Instance, now: int) -> int:
    used = await tx.limits.counts(
        tenant_id=instance.tenant_id,
        agent_id=instance.agent_id,
        whats={_REFUSED},
        since=now - HOUR,
    )
    return max(0, REFUSALS_PER_HOUR - sum(count.number for count in used))
