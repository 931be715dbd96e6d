"""Running a chat tool in the control plane, where the agent's own machine cannot.

It is judged by the same code as on the machine (``aura_core.permissions``): the request that the
tool makes, not the tool's name, decides what the agent may do, and it counts against the same
limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aura_control.db.connection import Connection
from aura_control.db.models import Agent, ConnectionState
from aura_control.services.agents import own
from aura_control.services.conduct import AgentMeter
from aura_control.services.delivery import may_use
from aura_control.services.refresh import fresh_envelope
from aura_core.adapter import binding, placed
from aura_core.api import BoundApi
from aura_core.errors import Conflict, NotFound, PermissionDenied
from aura_core.permissions import AgentPermissions

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = ["run_tool"]


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    agent: Agent
    tool: str
    provider: str


@dataclass(frozen=True, kw_only=True)
class _Call:
    attempt: _Attempt
    connection: Connection


class _NotUsed(PermissionDenied):
    """Refused before there is anything to call with."""

    def __init__(self, attempt: _Attempt) -> None:
        super().__init__(
            f"This agent does not use {attempt.provider}.",
            rule=f"integration:{attempt.provider}",
            hint="Its owner can add it to the agent's integrations.",
        )
        self.attempt = attempt


async def run_tool(
    services: Services,
    principal: Principal,
    agent_id: str,
    tool: str,
    arguments: Mapping[str, Any],
) -> Any:
    """The tool's result (JSON).

    Raises NotFound for an agent or a tool that there is not, Conflict when the tool's account is
    not connected, InvalidInput for arguments that do not fit, PermissionDenied with the rule that
    refused, and the CredentialErrors and ProviderErrors. Both the attempt and what it came to are
    audited, with the names of the arguments and without their values.
    """
    try:
        call = await _prepare(services, principal, agent_id, tool)
    except _NotUsed as error:
        await _audit(services, principal, error.attempt, "tool.ended", _refused(error))
        raise
    integration, context = services.providers.of(call.connection)
    known = {name for t in integration.tools if t.name == tool for name in t.arguments.model_fields}
    named = {"arguments": sorted(known & arguments.keys())}
    await _audit(services, principal, call.attempt, "tool.called", named)
    try:
        permissions = AgentPermissions.model_validate(call.attempt.agent.permissions)
        envelope = await fresh_envelope(services, principal.tenant_id, call.connection)
        api = BoundApi(
            binding(context, envelope.secrets),
            placed(context, envelope.secrets),
            services.http,
            permissions=permissions,
            meter=AgentMeter(services.database, call.attempt.agent, permissions),
        )
        result = await integration.adapter.execute_chat_tool(
            integration.tools, tool, arguments, api
        )
    except Exception as error:
        outcome: dict[str, Any] = {"outcome": type(error).__name__}
        if isinstance(error, PermissionDenied):
            outcome = _refused(error)
        await _audit(services, principal, call.attempt, "tool.ended", outcome)
        raise
    await _audit(services, principal, call.attempt, "tool.ended", {"outcome": "done"})
    return result


async def _prepare(services: Services, principal: Principal, agent_id: str, tool: str) -> _Call:
    async with services.database.reading() as tx:
        agent = await own(tx, principal, agent_id)
        provider = _provider_of(services, tool)
        used = await may_use(tx, agent, provider)
        connection = await tx.integrations.get(
            tenant_id=principal.tenant_id, user_id=principal.user_id, provider=provider
        )
    attempt = _Attempt(agent=agent, tool=tool, provider=provider)
    if not used:
        raise _NotUsed(attempt)
    if connection is None or connection.state is ConnectionState.DISCONNECTED:
        raise Conflict(
            f"{provider} is not connected.", hint=f"Connect it: GET /api/integrations/{provider}."
        )
    return _Call(attempt=attempt, connection=connection)


def _provider_of(services: Services, tool: str) -> str:
    """The integration that has the tool, by the manifests: no plugin is imported to say no."""
    for listing in services.registry.listings():
        manifest = listing.manifest if listing.status == "available" else None
        if manifest is not None and any(facts.name == tool for facts in manifest.tools):
            return manifest.id
    raise NotFound(f"There is no tool {tool!r}.")


async def _audit(
    services: Services,
    principal: Principal,
    attempt: _Attempt,
    action: str,
    facts: dict[str, Any],
) -> None:
    """One entry. What is called outside is recorded before it is called."""
    async with services.database.transaction() as tx:
        await tx.audit.append(
            principal.tenant_id,
            action=action,
            actor=principal.actor,
            target=f"tool:{attempt.tool}",
            agent_id=attempt.agent.id,
            metadata={"provider": attempt.provider, **facts},
        )


def _refused(error: PermissionDenied) -> dict[str, Any]:
    return {"outcome": "refused", "rule": error.rule}
