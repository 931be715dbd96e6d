"""Agents: deploying, changing and destroying them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aura_control.db.models import Agent, Delivery, Instance
from aura_control.db.models import InstanceState as S
from aura_control.db.transaction import Transaction
from aura_control.services import delivery
from aura_control.services.composing import RUNTIME_CONFIG, spec_of
from aura_control.services.delivery import EVERY_INTEGRATION
from aura_control.services.enrolment import (
    DESTROY,
    PROGRESS,
    PROVISION,
    destroy_id,
    provision_id,
)
from aura_core.errors import InvalidInput, NotFound
from aura_core.permissions import AgentPermissions

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = [
    "DESTROYABLE",
    "AgentChanges",
    "AgentView",
    "NewAgent",
    "create",
    "destroy",
    "get",
    "list_agents",
    "mark_destroying",
    "start_destroying",
    "update",
]

DESTROYABLE = (
    S.REQUESTED, S.PROVISIONING, S.ENROLLING, S.RUNNING, S.SUSPENDED, S.DEGRADED, S.FAILED
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NewAgent:
    """An agent to be deployed. ``compute`` and ``runtime``: the operator's default when None."""

    name: str
    compute: str | None = None
    runtime: str | None = None
    persona: Mapping[str, str] = field(default_factory=dict)
    permissions: AgentPermissions = field(default_factory=AgentPermissions)
    config: Mapping[str, Any] = field(default_factory=dict)
    integrations: tuple[str, ...] | None = None
    """Providers whose connections the agent uses; None: all of its user's, future ones too."""


@dataclass(frozen=True, kw_only=True)
class AgentChanges:
    """What of an agent is to be different; ``fields`` says which of the others count."""

    fields: frozenset[str]
    name: str = ""
    persona: Mapping[str, str] = field(default_factory=dict)
    permissions: Mapping[str, Any] = field(default_factory=dict)
    """Members of :class:`AgentPermissions`, as they are stored; those left out stay as they are."""
    config: Mapping[str, Any] = field(default_factory=dict)
    integrations: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AgentView:
    """An agent with its machine and what that should hold."""

    agent: Agent
    integrations: tuple[str, ...] | None
    instance: Instance | None
    deliveries: Sequence[Delivery]


async def create(services: Services, principal: Principal, new: NewAgent) -> AgentView:
    """Deploys an agent: its rows are committed, and a workflow makes its machine.

    Raises InvalidInput for a compute, a runtime, an integration or a configuration that there is
    not.
    """
    compute = new.compute or services.settings.default_compute
    runtime = new.runtime or services.settings.default_runtime
    _check_choices(services, compute, runtime, new.integrations)
    async with services.database.transaction() as tx:
        agent = await tx.agents.create(
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            name=new.name,
            compute=compute,
            runtime=runtime,
            persona=new.persona,
            permissions=new.permissions.model_dump(mode="json"),
            config={
                EVERY_INTEGRATION: new.integrations is None,
                RUNTIME_CONFIG: dict(new.config),
            },
            actor=principal.actor,
        )
        services.registry.runtimes()[runtime].plan(spec_of(agent))
        for provider in new.integrations or ():
            await tx.agents.enable(
                tenant_id=principal.tenant_id,
                agent_id=agent.id,
                provider=provider,
                actor=principal.actor,
            )
        instance = await tx.instances.create(
            tenant_id=principal.tenant_id,
            agent_id=agent.id,
            compute=compute,
            actor=principal.actor,
        )
        await delivery.desire_all(tx, instance=instance, providers=services.providers)
        view = await _view(tx, agent)
    # After the commit. Should this process die in between, the sweep starts it.
    await services.workflows.start(
        PROVISION, provision_id(instance.id), principal.tenant_id, instance.id
    )
    return view


async def get(services: Services, principal: Principal, agent_id: str) -> AgentView:
    """One of the user's agents. Raises NotFound."""
    async with services.database.reading() as tx:
        return await _view(tx, await own(tx, principal, agent_id))


async def list_agents(services: Services, principal: Principal) -> list[AgentView]:
    """The user's agents, oldest first."""
    async with services.database.reading() as tx:
        agents = await tx.agents.list(tenant_id=principal.tenant_id, user_id=principal.user_id)
        return [await _view(tx, agent) for agent in agents]


async def update(
    services: Services, principal: Principal, agent_id: str, changes: AgentChanges
) -> AgentView:
    """Changes an agent. Permissions and integrations reach its machine at once; persona and
    configuration are composed into the next one.

    Raises NotFound and InvalidInput.
    """
    async with services.database.transaction() as tx:
        # Permissions are merged into those that there are: of two changes at once neither may put
        # back what the other took away.
        agent = await own(tx, principal, agent_id, to_change=True)
        if "integrations" in changes.fields:
            _check_integrations(services, changes.integrations)
        values = _values(agent, changes)
        if values:
            agent = await tx.agents.update(
                tenant_id=principal.tenant_id,
                agent_id=agent_id,
                changes=values,
                actor=principal.actor,
            )
        if "config" in changes.fields or "persona" in changes.fields:
            runtime = services.registry.runtimes().get(agent.runtime)
            if runtime is not None:
                runtime.plan(spec_of(agent))
        if "integrations" in changes.fields:
            await _use_only(tx, principal, agent, changes.integrations or ())
        await _deliver_changes(services, tx, agent, changes)
        view = await _view(tx, agent)
    services.deliverer.wake()
    return view


async def destroy(services: Services, principal: Principal, agent_id: str) -> AgentView:
    """Ends an agent: its machine is destroyed by a workflow, and the agent goes with it.

    Asking again changes nothing. Raises NotFound.
    """
    async with services.database.transaction() as tx:
        agent = await own(tx, principal, agent_id)
        instances = await mark_destroying(
            tx,
            await tx.instances.for_agent(tenant_id=principal.tenant_id, agent_id=agent_id),
            actor=principal.actor,
        )
        view = await _view(tx, agent)
    await start_destroying(services, instances, actor=principal.actor)
    return view


async def mark_destroying(
    tx: Transaction, instances: Sequence[Instance], *, actor: str
) -> Sequence[Instance]:
    """Decides that these machines go; those of which something may be left."""
    left = [instance for instance in instances if instance.state is not S.DESTROYED]
    for instance in left:
        await tx.instances.transition(
            tenant_id=instance.tenant_id,
            instance_id=instance.id,
            from_states=DESTROYABLE,
            to_state=S.DESTROYING,
            actor=actor,
        )
    return left


async def start_destroying(
    services: Services, instances: Sequence[Instance], *, actor: str
) -> None:
    """After the commit: the workflows that destroy them. Starting one again changes nothing."""
    for instance in instances:
        await services.workflows.start(
            DESTROY, destroy_id(instance.id), instance.tenant_id, instance.id, actor
        )
        await services.workflows.send(provision_id(instance.id), PROGRESS, "stop")


async def own(
    tx: Transaction, principal: Principal, agent_id: str, *, to_change: bool = False
) -> Agent:
    """The agent, if it is the user's own. Raises NotFound."""
    agent = await tx.agents.get(
        tenant_id=principal.tenant_id, agent_id=agent_id, to_change=to_change
    )
    if agent.user_id != principal.user_id:
        raise NotFound("There is no such agent.")
    return agent


async def current_instance(tx: Transaction, agent: Agent) -> Instance | None:
    """The agent's newest instance."""
    found = await tx.instances.for_agent(tenant_id=agent.tenant_id, agent_id=agent.id)
    return found[0] if found else None


def _check_choices(
    services: Services, compute: str, runtime: str, integrations: tuple[str, ...] | None
) -> None:
    known = {"compute": services.registry.computes(), "runtime": services.registry.runtimes()}
    wrong = {
        name: f"must be one of: {', '.join(sorted(known[name]))}"
        for name, choice in (("compute", compute), ("runtime", runtime))
        if choice not in known[name]
    }
    if wrong:
        raise InvalidInput("The agent cannot be deployed like this.", fields=wrong)
    _check_integrations(services, integrations)


def _check_integrations(services: Services, integrations: tuple[str, ...] | None) -> None:
    for number, provider in enumerate(integrations or ()):
        try:
            services.registry.get(provider)
        except NotFound:
            raise InvalidInput(
                "The agent cannot use an integration that is not here.",
                fields={f"integrations.{number}": "is no integration here"},
            ) from None


def _values(agent: Agent, changes: AgentChanges) -> dict[str, Any]:
    """The columns to write."""
    values: dict[str, Any] = {}
    if "name" in changes.fields:
        values["name"] = changes.name
    if "persona" in changes.fields:
        values["persona"] = dict(changes.persona)
    if "permissions" in changes.fields:
        merged = AgentPermissions.model_validate({**agent.permissions, **changes.permissions})
        values["permissions"] = merged.model_dump(mode="json")
    config = dict(agent.config)
    if "config" in changes.fields:
        config[RUNTIME_CONFIG] = dict(changes.config)
    if "integrations" in changes.fields:
        config[EVERY_INTEGRATION] = changes.integrations is None
    if config != agent.config:
        values["config"] = config
    return values


async def _use_only(
    tx: Transaction, principal: Principal, agent: Agent, providers: Sequence[str]
) -> None:
    before = set(await tx.agents.providers(tenant_id=agent.tenant_id, agent_id=agent.id))
    who = {"tenant_id": agent.tenant_id, "agent_id": agent.id, "actor": principal.actor}
    for provider in sorted(before - set(providers)):
        await tx.agents.disable(**who, provider=provider)
    for provider in sorted(set(providers) - before):
        await tx.agents.enable(**who, provider=provider)


async def _deliver_changes(
    services: Services, tx: Transaction, agent: Agent, changes: AgentChanges
) -> None:
    for instance in await tx.instances.for_agent(tenant_id=agent.tenant_id, agent_id=agent.id):
        if instance.state not in delivery.ALIVE:
            continue
        if "permissions" in changes.fields:
            await delivery.desire_policy(tx, instance=instance)
        if "integrations" in changes.fields:
            await delivery.reconcile_credentials(
                tx, instance=instance, providers=services.providers
            )


async def _view(tx: Transaction, agent: Agent) -> AgentView:
    every = bool(agent.config.get(EVERY_INTEGRATION))
    providers = await tx.agents.providers(tenant_id=agent.tenant_id, agent_id=agent.id)
    instance = await current_instance(tx, agent)
    rows: Sequence[Delivery] = ()
    if instance is not None:
        rows = await tx.deliveries.for_instance(tenant_id=agent.tenant_id, instance_id=instance.id)
    return AgentView(
        agent=agent,
        integrations=None if every else tuple(providers),
        instance=instance,
        deliveries=rows,
    )
