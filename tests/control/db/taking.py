"""A process that makes calls of an agent as fast as its limit lets it: ``taking URL TENANT AGENT``.

Prints how many were let through and how many were refused.
"""

from __future__ import annotations

import asyncio
import sys

from aura_control.db.engine import Database
from aura_control.services.conduct import AgentMeter
from aura_core.errors import LimitReached
from aura_core.permissions import AgentPermissions, Decision
from tests.control.db.conftest import audit_key

LIMIT = 25
CALLS = 12
PERMISSIONS = AgentPermissions.model_validate(
    {"rate_limits": {"email:send": {"max_per_hour": LIMIT}}}
)
SEND = Decision(allowed=True, needs=("email:send",), rule="scope:email:send")


async def take(url: str, tenant_id: str, agent_id: str) -> tuple[int, int]:
    database = Database.open(url, audit_key=audit_key)
    try:
        async with database.reading() as tx:
            agent = await tx.agents.get(tenant_id=tenant_id, agent_id=agent_id)
        meter = AgentMeter(database, agent, PERMISSIONS)
        taken = await asyncio.gather(
            *(meter.take(SEND) for _ in range(CALLS)), return_exceptions=True
        )
    finally:
        await database.close()
    wrong = [
        outcome
        for outcome in taken
        if isinstance(outcome, BaseException) and not isinstance(outcome, LimitReached)
    ]
    if wrong:
        raise wrong[0]
    refused = sum(isinstance(outcome, LimitReached) for outcome in taken)
    return len(taken) - refused, refused


if __name__ == "__main__":
    print(*asyncio.run(take(*sys.argv[1:])))  # noqa: T201
