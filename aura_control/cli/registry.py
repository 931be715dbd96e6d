"""The registry as the operator's settings make it."""

from __future__ import annotations

import os

from aura_control.settings import Settings
from aura_core.compute import HostContext
from aura_core.registry import Registry

__all__ = ["open_registry"]


def open_registry(settings: Settings) -> Registry:
    """All integrations: installed ones and the operator's own manifests; imports no plugin."""
    # Plugins get their own settings and not ours, among which are keys and passwords.
    ours = {f"AURA_{name.upper()}" for name in Settings.model_fields} | {"AURA_TOKEN"}
    own = {k: v for k, v in os.environ.items() if k.startswith("AURA_") and k not in ours}
    return Registry.discover(
        manifest_dirs=settings.manifests,
        allow_loopback_http=settings.allow_loopback_http,
        relocations=settings.twins,
        context=HostContext(data_dir=settings.data_dir, settings=own),
    )
