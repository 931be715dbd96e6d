"""What the control plane is composed of: made once by ``app``, on ``app.state.services``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from aura_control.db.engine import Database
    from aura_control.metrics import Metrics
    from aura_control.ports import (
        Clock,
        Deliverer,
        Locks,
        MachineClient,
        Notifier,
        OAuthClients,
        Renewals,
        Workflows,
    )
    from aura_control.services.keys import Vault
    from aura_control.services.providers import Providers
    from aura_control.services.refresh import Refresher
    from aura_control.services.revocation import Revoker
    from aura_control.services.sealing import Sealer
    from aura_control.services.skills import Skills
    from aura_control.settings import Settings
    from aura_core.registry import Registry

__all__ = ["Services"]


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that a service may need. It lives as long as the application's lifespan."""

    settings: Settings
    clock: Clock
    database: Database
    registry: Registry
    vault: Vault
    http: httpx.AsyncClient
    """For providers; services give it to adapters and never call it themselves."""
    oauth_clients: OAuthClients
    providers: Providers
    locks: Locks
    refresher: Refresher
    renewals: Renewals
    revoker: Revoker
    skills: Skills
    sealer: Sealer
    deliverer: Deliverer
    machines: MachineClient
    workflows: Workflows
    events: Notifier
    metrics: Metrics
