"""The registry as the operator's settings make it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aura_control.settings import Settings
from aura_core.compute import HostContext
from aura_core.registry import Registry

if TYPE_CHECKING:
    from aura_control.services.keys import Vault

__all__ = ["open_registry", "open_vault"]


def open_registry(settings: Settings) -> Registry:
    """All integrations: installed ones and the operator's own manifests; imports no plugin."""
    # Plugins get their own settings and not ours, among which are keys and passwords.
    ours = {f"AURA_{name.upper()}" for name in Settings.model_fields} | {"AURA_TOKEN"}
    own = {k: v for k, v in os.environ.items() if k.startswith("AURA_") and k not in ours}
    return Registry.discover(
        manifest_dirs=settings.manifests,
        allow_loopback_http=settings.allow_loopback_http,
        relocations=settings.twins,
        private_hosts=settings.private_hosts,
        context=HostContext(data_dir=settings.data_dir, settings=own),
    )


def open_vault(settings: Settings) -> Vault:
    """The keys, with the installed secret stores asked for what the keyring refers to. It blocks.

    Raises ConfigurationError and what a store raises.
    """
    from aura_control.bootstrap import load_vault

    return load_vault(settings, lambda: open_registry(settings).secret_stores())
