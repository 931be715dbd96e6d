"""What the daemon has opened: credentials and permissions, in memory only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from aura_core.credentials import CredentialPayload
from aura_core.permissions import AgentPermissions
from aura_vmd.contents import POLICY, Content
from aura_vmd.reflection import needles

__all__ = ["HeldCredential", "Holdings"]


@dataclass(frozen=True, kw_only=True)
class HeldCredential:
    """A credential and the revision of the message that brought it."""

    payload: CredentialPayload
    revision: int

    @cached_property
    def needles(self) -> tuple[bytes, ...]:
        """What answers are searched for: worked out once, not for each call."""
        return needles(self.payload)

    def is_expired(self, now: datetime) -> bool:
        expires_at = self.payload.expires_at
        if expires_at is None:
            return False
        if expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
        return expires_at <= now


class Holdings:
    """Opened contents by subject. Without a policy the agent may do nothing."""

    def __init__(self) -> None:
        self._credentials: dict[str, HeldCredential] = {}
        self.permissions = AgentPermissions()

    def put(self, subject: str, content: Content, *, revision: int) -> None:
        """Take over a content; a skill is not held here."""
        if isinstance(content, AgentPermissions):
            self.permissions = content
        elif isinstance(content, CredentialPayload):
            self._credentials[subject] = HeldCredential(payload=content, revision=revision)

    def remove(self, subject: str) -> None:
        """Forget a subject; succeeds when there is nothing to forget."""
        self._credentials.pop(subject, None)
        if subject == POLICY:
            self.permissions = AgentPermissions()

    def credential(self, provider: str) -> HeldCredential | None:
        """The provider's newest: for a while, a reconnected account is here twice."""
        found = [held for held in self._credentials.values() if held.payload.provider == provider]
        return max(found, key=lambda held: held.revision, default=None)

    def __iter__(self) -> Iterator[HeldCredential]:
        """One credential for each provider, in order of its name."""
        for provider in sorted({held.payload.provider for held in self._credentials.values()}):
            held = self.credential(provider)
            if held is not None:
                yield held
