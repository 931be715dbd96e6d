"""Errors, named after the caller's next move.

    AuraError
    ├── ConfigurationError          the operator changes a setting
    │   └── ManifestError           ... in a manifest: says file, key and reason
    ├── PluginError                 the plugin's author mends the plugin
    │   └── DuplicateIntegration    ... or the operator uninstalls one of two
    ├── InvalidInput                the caller sends something else
    ├── NotFound                    the caller asks for something that exists
    ├── Conflict                    the caller looks at the present state first
    ├── AuthenticationRequired      the caller signs in
    ├── PermissionDenied            the owner widens the agent's permissions, or nobody does
    │   ├── LimitReached            the caller tries again after ``retry_after`` seconds
    │   └── AddressRefused          the operator allows the host, or nobody (a ProviderUnavailable)
    ├── CredentialError
    │   ├── ReauthorizationRequired the user connects the account again
    │   └── RefreshFailed           the caller tries again later; nothing is lost
    ├── ProviderError
    │   ├── ProviderUnavailable     the caller tries again
    │   ├── RateLimited             the caller tries again after ``retry_after`` seconds
    │   └── ProviderRejected        the caller changes the request
    ├── Unavailable                 the caller tries again in a moment: this process is ending
    ├── ComputeError                the caller tries again; what was made is recorded
    ├── EnvelopeError               nobody can open it: treat the credential as lost
    │   └── KeyMissing              ... until the operator puts a master key back: nothing is lost
    └── WireError                   a message between control plane and machine is refused
        ├── MalformedMessage, MessageTooLarge, BearerRejected, SignatureInvalid, WrongRecipient
        └── StaleRevision, RevisionConflict     ... with the revision that is ``stored``

A message is written for a person and never holds a secret. ``hint`` says what to do next.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = [
    "AddressRefused",
    "AuraError",
    "AuthenticationRequired",
    "BearerRejected",
    "ComputeError",
    "ConfigurationError",
    "Conflict",
    "CredentialError",
    "DuplicateIntegration",
    "Effect",
    "EnvelopeError",
    "InvalidInput",
    "KeyMissing",
    "LimitReached",
    "MalformedMessage",
    "ManifestError",
    "MessageTooLarge",
    "NotFound",
    "PermissionDenied",
    "PluginError",
    "ProviderError",
    "ProviderRejected",
    "ProviderUnavailable",
    "RateLimited",
    "ReauthorizationRequired",
    "RefreshFailed",
    "RevisionConflict",
    "SignatureInvalid",
    "StaleRevision",
    "Unavailable",
    "WireError",
    "WrongRecipient",
]


class AuraError(Exception):
    """Base of all errors that Aura raises on purpose."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


class ConfigurationError(AuraError):
    """A setting is missing or wrong."""


class ManifestError(ConfigurationError):
    """A manifest is not usable: ``source`` (file), ``key`` and ``reason`` say where and why."""

    def __init__(self, *, source: str, key: str, reason: str, hint: str | None = None) -> None:
        where = f"{source}: {key}" if key else source
        super().__init__(f"{where}: {reason}", hint=hint)
        self.source = source
        self.key = key
        self.reason = reason


class PluginError(AuraError):
    """A plugin cannot be loaded or broke its contract."""


class DuplicateIntegration(PluginError):
    """Two distributions offer the same id; the message names both."""


_NAME_PART = re.compile(
    r"\[key\]|[0-9]{1,6}|[a-z]{1,16}[0-9]{0,2}([_:-][a-z]{1,16}[0-9]{0,2}){0,5}"
)


class InvalidInput(AuraError):
    """What the caller sent cannot be used. ``fields`` maps a dotted path to what is wrong there.

    Half of such a path is often the caller's own: an unknown field, a key of a mapping. Somebody
    who pastes a credential one line too high has made it a name, and answers are kept in the logs
    of whoever called. So a part that is not made of plain words is told as ``*``.
    """

    def __init__(
        self, message: str, *, fields: dict[str, str] | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.fields = {_shown(path): wrong for path, wrong in (fields or {}).items()}


def _shown(path: str) -> str:
    return ".".join(part if _NAME_PART.fullmatch(part) else "*" for part in path.split("."))


class NotFound(AuraError):
    """It does not exist, or not for this caller: the two cannot be told apart on purpose."""


class Conflict(AuraError):
    """The present state does not allow it."""


class AuthenticationRequired(AuraError):
    """No valid API token came with the request."""


class PermissionDenied(AuraError):
    """A rule refuses the call; ``rule`` is a stable name such as ``scope:email:send``."""

    def __init__(self, message: str, *, rule: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class LimitReached(PermissionDenied):
    """A limit of the agent's own is used up; ``retry_after`` (seconds) says until when."""

    def __init__(
        self, message: str, *, rule: str, retry_after: float, hint: str | None = None
    ) -> None:
        super().__init__(message, rule=rule, hint=hint)
        self.retry_after = retry_after


class CredentialError(AuraError):
    """A credential cannot be used now."""


class ReauthorizationRequired(CredentialError):
    """The provider will not accept this credential again; only the user can mend it."""


class RefreshFailed(CredentialError):
    """A refresh did not succeed but may later; the stored tokens are untouched."""


Effect = Literal["none", "unknown", "unclear"]
"""What a call that failed did at the provider. ``none``: it was never sent, or it was refused.
``unknown``: it was sent, and no answer came. ``unclear``: an answer came that cannot be used, and
perhaps it meant success. It matters where a call spends something, as a refresh does."""


class ProviderError(AuraError):
    """The provider answered with an error, or not at all; ``effect`` is what the call did."""

    def __init__(self, message: str, *, hint: str | None = None, effect: Effect = "none") -> None:
        super().__init__(message, hint=hint)
        self.effect: Effect = effect


class ProviderUnavailable(ProviderError):
    """Network failure, time-out or 5xx; ``sent`` is false where no connection was made."""

    def __init__(
        self,
        message: str,
        *,
        sent: bool = True,
        hint: str | None = None,
        effect: Effect = "none",
    ) -> None:
        super().__init__(message, hint=hint, effect=effect)
        self.sent = sent


class AddressRefused(PermissionDenied, ProviderUnavailable):
    """A host resolves to an address that is not public; nothing was sent.

    For an agent it is a refusal with a rule. For a refresh it is a provider that cannot be reached:
    a name server's mistake must not cost anybody their connection.
    """

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} leads to an address that is not public, so it is not called.",
            rule="address:private",
            hint="If it is meant to, the operator names the host in AURA_PRIVATE_HOSTS.",
        )
        self.sent = False


class RateLimited(ProviderError):
    """The provider asks to slow down; ``retry_after`` is in seconds."""

    def __init__(self, message: str, *, retry_after: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ProviderRejected(ProviderError):
    """The provider refused the request; ``status`` is its HTTP status, ``code`` its error code."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        hint: str | None = None,
        effect: Effect = "none",
    ) -> None:
        super().__init__(message, hint=hint, effect=effect)
        self.status = status
        self.code = code


class Unavailable(AuraError):
    """This process is shutting down; another one, or the next, answers."""


class ComputeError(AuraError):
    """A compute could not do what was asked; ``retryable`` says whether asking again may help."""

    def __init__(self, message: str, *, retryable: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class EnvelopeError(AuraError):
    """An encrypted value does not open; ``kind`` says why.

    ``damaged``: altered, or moved from another tenant, connection, field or revision, which cannot
    be told apart. ``old_revision``: put back from an earlier time. ``key_destroyed``: its master
    key was retired.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Literal["damaged", "old_revision", "key_destroyed", "unknown_key"] = "damaged",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class KeyMissing(EnvelopeError):
    """A value names a master key that the keyring lacks, ``kid``. Of kind ``unknown_key``.

    A keyring that was not mounted, or not yet copied to this host, is the likely reason: whoever
    catches this must not write the credential off.
    """

    def __init__(self, message: str, *, kid: str, hint: str | None = None) -> None:
        super().__init__(message, kind="unknown_key", hint=hint)
        self.kid = kid


class WireError(AuraError):
    """A message between control plane and machine is refused."""


class MalformedMessage(WireError):
    """Not the shape that the protocol fixes."""


class MessageTooLarge(WireError):
    """Longer than the protocol allows."""


class BearerRejected(WireError):
    """The gateway token is missing or wrong."""


class SignatureInvalid(WireError):
    """The signature does not verify under a known key."""


class WrongRecipient(WireError):
    """Sealed for another instance or another key."""


class StaleRevision(WireError):
    """Older than what is stored; ``stored`` is that revision."""

    def __init__(self, message: str, *, stored: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stored = stored


class RevisionConflict(WireError):
    """Same revision, other content: somebody forges or forgot; ``stored`` is that revision."""

    def __init__(self, message: str, *, stored: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stored = stored
