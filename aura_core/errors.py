"""Aura's errors, named after what the caller does next."""

from __future__ import annotations

__all__ = [
    "AuraError",
    "BearerRejected",
    "ConfigurationError",
    "EnvelopeError",
    "MalformedMessage",
    "MessageTooLarge",
    "RevisionConflict",
    "SignatureInvalid",
    "StaleRevision",
    "WireError",
    "WrongRecipient",
]


class AuraError(Exception):
    """The root. `hint` tells a person what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(AuraError):
    """The operator must change a setting."""


class EnvelopeError(AuraError):
    """A sealed value does not open."""


class WireError(AuraError):
    """A message between the control plane and a machine is refused."""


class MessageTooLarge(WireError):
    """The message exceeds the limit."""


class MalformedMessage(WireError):
    """The message is not in the one accepted form."""


class BearerRejected(WireError):
    """The bearer token is missing or another one."""


class SignatureInvalid(WireError):
    """The message was not signed by whom it names."""


class WrongRecipient(WireError):
    """The message is for another machine or an older key of this one."""


class StaleRevision(WireError):
    """The message is older than what is stored."""

    def __init__(self, message: str, *, stored: int) -> None:
        super().__init__(message)
        self.stored = stored


class RevisionConflict(WireError):
    """Two different messages claim the same revision."""

    def __init__(self, message: str, *, stored: int) -> None:
        super().__init__(message)
        self.stored = stored
