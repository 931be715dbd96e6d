"""Which skills a machine should have: those of the connections that its agent uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState, Instance
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.services.delivery import Skill
from aura_control.services.surroundings import Surroundings
from aura_core.errors import AuraError
from aura_core.registry import Registry

__all__ = ["Skills"]

_log = get_logger(__name__)


class Skills:
    """The skills of all integrations, each built and packed once in this process."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._built: dict[str, Skill | None] = {}

    async def of(self, provider: str) -> Skill | None:
        """The provider's skill; None without one, and while its plugin is quarantined."""
        if provider not in self._built:
            # A thread, because it may import the plugin and compresses for milliseconds.
            try:
                self._built[provider] = await asyncio.to_thread(self._build, provider)
            except AuraError as error:
                _log.warning("skill_unusable", provider=provider, reason=str(error))
                return None
        return self._built[provider]

    async def wanted(self, tx: Transaction, instance: Instance) -> Mapping[str, Skill]:
        """The skills that the machine should have, by folder."""
        surroundings = await Surroundings.read(tx, [instance])
        return await self.among(surroundings.used_by(instance))

    async def among(self, connections: Iterable[Connection]) -> Mapping[str, Skill]:
        """The skills of these connections, by folder; a disconnected one brings none."""
        found = {}
        for connection in connections:
            if connection.state is ConnectionState.DISCONNECTED:
                continue
            skill = await self.of(connection.provider)
            if skill is not None:
                found[skill.manifest.skill_dir_name] = skill
        return found

    def _build(self, provider: str) -> Skill | None:
        if self._registry.get(provider).skill is None:
            return None
        opened = self._registry.open(provider)
        manifest = opened.adapter.get_vm_skill_manifest(
            opened.manifest, opened.tools, opened.tools_source
        )
        return None if manifest is None else Skill.of(manifest)
