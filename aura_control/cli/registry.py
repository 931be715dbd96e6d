"""The registry as the operator's settings make it."""

from __future__ import annotations

import os

from aura_control.settings import Settings
from aura_core.compute import HostContext
from aura_core.registry import Registry

__all__ = ["open_registry"]


def open_registry(settings: Settings) -> Registry:
    """All integrations: installed ones and the operator's own manifests; imports no plugin."""
    # Plugins get the operator's settings for plugins, and none of the control plane's own: its
    # database's URL, its master keys and its API token are not theirs to read.
    reserved = {f"AURA_{name.upper()}" for name in Settings.model_fields} | {"AURA_TOKEN"}
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("AURA_") and name not in reserved
    }
    return Registry.discover(
        manifest_dirs=settings.manifests,
        allow_loopback_http=settings.allow_loopback_http,
        relocations=settings.twins,
        private_hosts=settings.private_hosts,
        context=HostContext(data_dir=settings.data_dir, settings=own),
    )
