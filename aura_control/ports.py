"""What the services need of the world outside: the composition root says who does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from pydantic import SecretStr

from aura_core.adapter import OAuthClientSettings
from aura_core.errors import RefreshFailed
from aura_core.manifest import AuthMethod

__all__ = [
    "Clock",
    "Deliverer",
    "LockTaken",
    "Locks",
    "MachineClient",
    "Notifier",
    "OAuthClients",
    "Renewals",
    "Watch",
    "Workflows",
]

Clock = Callable[[], datetime]
"""The time now, time zone aware."""


class OAuthClients(Protocol):
    """The clients that the operator registered at providers."""

    def client(self, method: AuthMethod) -> OAuthClientSettings | None:
        """The client for a way to authenticate; None where it needs none.

        Raises ConfigurationError naming the environment variable that is missing.
        """
        ...


class LockTaken(RefreshFailed):
    """Somebody else held the lock for as long as the caller would wait."""


class Locks(Protocol):
    """Locks between all processes of the control plane, which die with their holder."""

    def hold(self, name: str, *, wait: float | None = None) -> AbstractAsyncContextManager[None]:
        """Waits for the lock and holds it inside the block.

        ``wait``: at most so many seconds, 0 for not at all; a minute if it is None. Raises
        LockTaken when it takes longer, RefreshFailed when it cannot be asked for."""
        ...


class MachineClient(Protocol):
    """Reaches the daemon of a machine."""

    async def push(
        self, *, push_url: str, gateway_token: SecretStr, subject: str, message: bytes
    ) -> Mapping[str, Any]:
        """Delivers a sealed message and answers the machine's acknowledgement, unchecked.

        Raises ProviderUnavailable when the machine cannot be reached, or the WireError that it
        answered.
        """
        ...


class Deliverer(Protocol):
    """Brings to machines what they should hold."""

    def wake(self) -> None:
        """There is something new to deliver; returns at once."""
        ...


class Renewals(Protocol):
    """Renews tokens before they end."""

    def wake(self) -> None:
        """There are new tokens; returns at once."""
        ...


class Workflows(Protocol):
    """Durable work, found again by its id after a crash."""

    async def start(self, name: str, workflow_id: str, *arguments: Any) -> None:
        """Starts the named workflow once: a second start with the same id changes nothing."""
        ...

    async def send(self, workflow_id: str, topic: str, message: Any) -> None:
        """Tells a waiting workflow something; the message is JSON and holds no secret."""
        ...


class Watch(Protocol):
    """One follower of a user's or an agent's events."""

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - keep-alives
        """Waits for what was notified since the last ``wait``, at most ``timeout`` seconds;
        whether there was something."""
        ...


class Notifier(Protocol):
    """Wakes those in this process who follow a user's or an agent's events."""

    @property
    def closed(self) -> bool:
        """Whether followers should end: the control plane stops."""
        ...

    def close(self) -> None:
        """The control plane stops: all followers should end; returns at once."""
        ...

    def notify(self, followed: str) -> None:
        """There are new events; returns at once."""
        ...

    def watch(self, followed: str) -> AbstractContextManager[Watch]:
        """Follows the user or agent (id) inside the block: nothing that is notified from then
        on is missed."""
        ...
