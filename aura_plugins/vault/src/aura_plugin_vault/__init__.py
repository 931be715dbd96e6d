"""HashiCorp Vault, and OpenBao, as a place for Aura's master keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aura_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from aura_core.compute import HostContext
    from aura_core.secret_stores import SecretStore

__all__ = ["aura_secret_stores"]


@hookimpl
def aura_secret_stores(context: HostContext) -> list[SecretStore]:
    """The store ``vault``. Its settings are read, and hvac is imported, when it is first used."""
    from aura_plugin_vault.store import VaultStore

    return [VaultStore(context.settings)]
