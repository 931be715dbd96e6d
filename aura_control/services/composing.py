"""From an agent and its connections to the user-data of its machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pydantic import SecretStr

from aura_control.db.models import Agent, Instance
from aura_control.db.transaction import Transaction
from aura_control.services.enrolment import join_token
from aura_control.services.keys import Vault
from aura_control.services.skills import Skills
from aura_control.settings import Settings
from aura_core.encoding import b64url
from aura_core.errors import InvalidInput
from aura_core.registry import Registry
from aura_core.runtime import AgentSpec, Runtime
from cloudinit_templates import Composed, Plan, compose

__all__ = ["RUNTIME_CONFIG", "Composer", "spec_of"]

RUNTIME_CONFIG = "runtime"
"""The key in ``agents.config`` of what the runtime is configured with."""

_SITE = ":80"
"""The daemon's messages are sealed and signed end to end, so a machine without a name of its own
needs no certificate."""


def spec_of(agent: Agent) -> AgentSpec:
    """What a runtime is told of the agent."""
    return AgentSpec(
        agent_id=agent.id,
        name=agent.name,
        persona=agent.persona,
        config=agent.config.get(RUNTIME_CONFIG, {}),
    )


class Composer:
    """Composes user-data. The same agent, connections and keys give the same bytes."""

    def __init__(
        self, *, settings: Settings, vault: Vault, registry: Registry, skills: Skills
    ) -> None:
        self._settings = settings
        self._vault = vault
        self._registry = registry
        self._skills = skills

    async def plan(self, tx: Transaction, *, instance: Instance) -> Plan:
        """What the machine is to be made from; nothing in it is secret but the join token.

        Raises InvalidInput for a configuration that the runtime cannot use, and NotFound for an
        agent that was deleted.
        """
        agent = await tx.agents.get(tenant_id=instance.tenant_id, agent_id=instance.agent_id)
        wanted = await self._skills.wanted(tx, instance)
        signing = self._vault.signing
        return Plan(
            instance_id=instance.id,
            agent_id=agent.id,
            hostname=instance.machine_name,
            control_url=self._settings.public_url,
            control_public_keys={signing.signer_kid: b64url(signing.sig_public)},
            join_token=SecretStr(join_token(self._vault, instance.id)),
            runtime=_runtime(self._registry.runtimes(), agent.runtime).plan(spec_of(agent)),
            skills=tuple(wanted[folder].manifest for folder in sorted(wanted)),
            site=_SITE,
        )

    async def compose(self, plan: Plan) -> Composed:
        """The user-data, made in a thread: it compresses. Raises InvalidInput."""
        return await asyncio.to_thread(compose, plan)


def _runtime(runtimes: Mapping[str, Runtime], name: str) -> Runtime:
    runtime = runtimes.get(name)
    if runtime is None:
        raise InvalidInput(
            f"There is no runtime {name!r} here any more.",
            hint="Install the plugin that brings it.",
        )
    return runtime
