"""The embedded compute and the small runtime that goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aura_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from aura_core.compute import Compute, HostContext
    from aura_core.runtime import Runtime

__all__ = ["aura_computes", "aura_runtimes"]

# Imports wait for the hooks: every machine's supervisor and runtime loads this package, and needs
# little of it.


@hookimpl
def aura_computes(context: HostContext) -> list[Compute]:
    """Machines below the host's data directory."""
    from aura_plugin_local.compute import LocalCompute

    return [LocalCompute(context.data_dir / "machines")]


@hookimpl
def aura_runtimes(context: HostContext) -> list[Runtime]:
    """The runtime that runs an agent's routines and nothing else."""
    from aura_plugin_local.basic import BasicRuntime

    del context
    return [BasicRuntime()]
