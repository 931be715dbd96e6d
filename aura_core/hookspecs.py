"""The hooks of Aura (pluggy project ``aura``; entry-point group ``aura.plugins``).

An entry point names a module; its module-level ``@hookimpl`` functions return instances.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from aura_core.adapter import IntegrationAdapter
    from aura_core.checkpoints import CheckpointStore
    from aura_core.compute import Compute, HostContext
    from aura_core.runtime import Runtime
    from aura_core.secret_stores import SecretStore

__all__ = ["GROUP", "hookimpl", "hookspec"]

GROUP = "aura.plugins"

hookspec = pluggy.HookspecMarker("aura")
hookimpl = pluggy.HookimplMarker("aura")


@hookspec
def aura_integrations() -> Iterable[IntegrationAdapter]:  # type: ignore[empty-body]
    """Adapters for manifests of this distribution whose provider has behaviour of its own."""


@hookspec
def aura_computes(context: HostContext) -> Iterable[Compute]:  # type: ignore[empty-body]
    """Where machines can come from."""


@hookspec
def aura_runtimes(context: HostContext) -> Iterable[Runtime]:  # type: ignore[empty-body]
    """What can run as an agent."""


@hookspec
def aura_secret_stores(context: HostContext) -> Iterable[SecretStore]:  # type: ignore[empty-body]
    """Where master keys can be kept."""


@hookspec
def aura_checkpoint_stores(context: HostContext) -> Iterable[CheckpointStore]:  # type: ignore[empty-body]
    """Kinds of places for the audit log's signed checkpoints."""


@hookspec
def aura_connected(provider: str, user_id: str, connection_id: str) -> None:
    """A connection was made or renewed. Observers never see a credential."""


@hookspec
def aura_disconnected(provider: str, user_id: str, connection_id: str) -> None:
    """A connection was ended."""


@hookspec
def aura_refreshed(provider: str, user_id: str, connection_id: str) -> None:
    """An access token was renewed."""
