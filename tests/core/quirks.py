"""A quirk: what a manifest says of a provider, and how one sees that it is acted on."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.core.lives import Life, Provider
from tests.core.providers import CLIENT_SECRET, NOW, declared

__all__ = [
    "BASIC",
    "SHOP",
    "Quirk",
    "authorize",
    "expires_in",
    "form_sent",
    "learned",
    "placements",
    "refresh",
    "response",
    "revocation",
    "token",
]

BASIC = "Basic " + base64.b64encode(f"client-1:{CLIENT_SECRET}".encode()).decode()
SHOP = declared("shop")


@dataclass(frozen=True, kw_only=True)
class Quirk:
    """A provider with one quirk, and what is true of a life with it only when it is acted on."""

    shows: Callable[[Life], bool]
    provider: Provider = field(default_factory=Provider)
    as_the_rfc_says: bool = False
    """What it shows is so without saying it, too."""


def authorize(toml: str, **more: Any) -> Provider:
    return Provider(facts={"authorization": toml}, **more)


def token(toml: str, **more: Any) -> Provider:
    return Provider(facts={"token": toml}, **more)


def refresh(toml: str, **more: Any) -> Provider:
    return Provider(facts={"refresh": toml}, **more)


def response(toml: str, answer: Any) -> Provider:
    return Provider(
        tables=f"[auth.token.response]\n{toml}\n", answers={"exchange": answer, "refresh": answer}
    )


def placements(toml: str, **more: Any) -> Provider:
    return Provider(facts={"auth": f"placements = [{toml}]"}, **more)


def revocation(toml: str, **more: Any) -> Provider:
    return Provider(
        revocation=f'[auth.revocation]\nurl = "https://login.acme.example/revoke"\n{toml}\n', **more
    )


def expires_in(life: Life, seconds: float) -> bool:
    assert life.connected is not None
    return life.connected.token_expiry == NOW + timedelta(seconds=seconds)


def learned(life: Life) -> dict[str, Any]:
    assert life.connected is not None
    return dict(life.connected.variables)


def form_sent(life: Life, step: str, **expected: str) -> bool:
    return expected.items() <= life.params(step).items()
