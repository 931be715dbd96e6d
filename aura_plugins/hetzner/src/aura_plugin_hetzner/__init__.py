"""Machines for agents in the Hetzner Cloud: the compute ``hetzner``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aura_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from aura_core.compute import Compute, HostContext

__all__ = ["aura_computes"]


@hookimpl
def aura_computes(context: HostContext) -> list[Compute]:
    """The compute ``hetzner``, where there is a token for it; hcloud is imported only then.

    Raises :class:`aura_core.errors.ConfigurationError` for settings that cannot be.
    """
    from aura_plugin_hetzner.settings import HetznerSettings

    settings = HetznerSettings.read(context.settings)
    if settings is None:
        return []
    from aura_plugin_hetzner.compute import HetznerCompute

    return [HetznerCompute(settings)]
