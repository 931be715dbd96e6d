"""A provider to call in tests, and its ``api``."""

from __future__ import annotations

from typing import Any

import httpx

from aura_core.api import BoundApi
from aura_core.credentials import BrokerBinding
from aura_core.manifest import BEARER
from tests.core.providers import NOW, secrets

__all__ = ["BASE", "TOKEN", "Waits", "api", "bound"]

TOKEN = "token-0123456789"
BASE = "https://api.acme.example"


def bound(**changed: Any) -> BrokerBinding:
    facts: dict[str, Any] = {
        "provider": "acme",
        "base_url": BASE,
        "hosts": ("api.acme.example", "*.files.acme.example"),
        "placements": (BEARER,),
    }
    return BrokerBinding(**{**facts, **changed})


class Waits:
    """Counts what would have been slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def api(http: httpx.AsyncClient, waits: Waits | None = None, **options: Any) -> BoundApi:
    facts = options.pop("facts", {})
    fields = options.pop("fields", {"access_token": TOKEN})
    return BoundApi(
        bound(**facts),
        secrets(**fields),
        http,
        sleep=waits or Waits(),
        now=lambda: NOW,
        **options,
    )
