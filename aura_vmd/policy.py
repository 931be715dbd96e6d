"""Whether the agent may make a call: decided before anything of it leaves the machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from aura_core.credentials import BrokerBinding, CredentialPayload
from aura_core.errors import InvalidInput, NotFound, RefreshFailed
from aura_core.permissions import Decision, require
from aura_core.placement import Target, resolve_target
from aura_vmd.holdings import HeldCredential, Holdings

__all__ = ["METHODS", "Permit", "Policy"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

_LONGEST_PATH = 8192
_MOST_SEGMENTS = 100
_SLASH = re.compile(r"/|%2[Ff]")
_HOST = re.compile(r"(\[[0-9a-f:]{2,39}\]|[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?)(:[0-9]{1,5})?")


class CredentialExpired(RefreshFailed):
    """The token's life is over and no newer one has come yet."""

    rule = "expired"


@dataclass(frozen=True, kw_only=True)
class Permit:
    """A call that may be made: with this credential, to this target, by this decision."""

    held: HeldCredential
    target: Target
    decision: Decision

    @property
    def rule(self) -> str:
        return self.decision.rule

    @property
    def payload(self) -> CredentialPayload:
        return self.held.payload

    @property
    def binding(self) -> BrokerBinding:
        return self.payload.binding


class Policy:
    """Judges calls by what the machine holds at that moment."""

    def __init__(
        self,
        *,
        holdings: Holdings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_expired: Callable[[], None] = lambda: None,
    ) -> None:
        self._holdings = holdings
        self._now = now
        self._on_expired = on_expired

    def permit(self, *, method: str, provider: str, path: str, host: str | None) -> Permit:
        """Judge one call. ``path`` (with query) is on the API's base URL, or, where ``host`` is
        given, complete on that host.

        Raises ``NotFound`` (not connected), ``InvalidInput``, ``PermissionDenied`` with its rule,
        and ``RefreshFailed`` (expired): the permission first, so that an expired credential tells
        nobody what it would not have been good for.
        """
        if len(path) > _LONGEST_PATH or _SLASH.subn("", path.partition("?")[0])[1] > _MOST_SEGMENTS:
            # Rules are matched segment by segment: a path of thousands would cost as many steps.
            raise InvalidInput("The path is longer than any of a provider's.")
        if method not in METHODS:
            raise InvalidInput(f"The method is one of {', '.join(sorted(METHODS))}.")
        held = self._holdings.credential(provider)
        if held is None:
            raise NotFound(
                f"{provider} is not connected on this machine.",
                hint="Its owner can connect it, or enable it for this agent.",
            )
        binding = held.payload.binding
        target = resolve_target(binding, _complete(binding, path, host))
        decision = require(binding, self._holdings.permissions, method=method, target=target)
        self._check_life(held)
        return Permit(held=held, target=target, decision=decision)

    def _check_life(self, held: HeldCredential) -> None:
        if not held.is_expired(self._now()):
            return
        self._on_expired()
        raise CredentialExpired(
            f"The credential for {held.payload.provider} has expired.",
            hint="A new one is asked for; try again in a minute. If it stays so, its owner has to"
            " connect the account again.",
        )

    def overview(self) -> dict[str, Any]:
        """Providers with their state, what the agent may do, and where."""
        now, permissions = self._now(), self._holdings.permissions
        domains = permissions.allowed_domains
        return {
            "providers": [
                {
                    "provider": held.payload.provider,
                    "state": "expired" if held.is_expired(now) else "usable",
                    "hosts": list(held.payload.binding.hosts),
                }
                for held in self._holdings
            ],
            "permissions": sorted(permissions.scopes),
            **({} if domains is None else {"allowed_domains": list(domains)}),
        }


def _complete(binding: BrokerBinding, path: str, host: str | None) -> str:
    if host is None:
        return path
    # The host becomes part of a URL: a slash, an @ or a ? in it would move the boundaries.
    if not _HOST.fullmatch(host):
        raise InvalidInput("Aura-Host is a host name in lower case, with a port or without.")
    base = urlsplit(binding.base_url)
    scheme = base.scheme if host == base.netloc else "https"
    if not path.startswith("/") or path.startswith("//"):
        raise InvalidInput("A path begins with exactly one slash.")
    return f"{scheme}://{host}{path}"
