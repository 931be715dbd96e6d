"""When a step is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from aura_core.errors import (
    AuthenticationRequired,
    ConfigurationError,
    Conflict,
    EnvelopeError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    PluginError,
    ProviderRejected,
    ReauthorizationRequired,
)

__all__ = ["Retries", "worth_retrying"]

_FINAL = (
    AuthenticationRequired,
    ConfigurationError,
    Conflict,
    EnvelopeError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    PluginError,
    ProviderRejected,
    ReauthorizationRequired,
)
"""Errors whose remedy is somebody else's move: the same call would fail the same way."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a step is tried, and how long the engine waits in between.

    ``interval`` is in seconds, after the first failure; each further one waits ``backoff`` times
    as long, an hour at most. One attempt may take ``attempt_seconds``.
    """

    attempts: int = 3
    interval: float = 1.0
    backoff: float = 2.0
    attempt_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.interval < 0 or self.backoff < 1 or self.attempt_seconds <= 0:
            raise ValueError("retries need an attempt, time for it, and waits that do not shrink")


def worth_retrying(error: BaseException) -> bool:
    """Whether trying again may help: an error says so itself, or its class does."""
    retryable = getattr(error, "retryable", None)
    if isinstance(retryable, bool):
        return retryable
    return not isinstance(error, _FINAL)
