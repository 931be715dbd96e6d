"""Errors as RFC 9457 problem documents: one table, and nothing of a bug reaches the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from aura_core import errors

__all__ = [
    "Malformed",
    "TooLarge",
    "UnsupportedMediaType",
    "problem_document",
    "problem_response",
    "status_of",
]


class Malformed(errors.InvalidInput):
    """The request's form is wrong: not JSON, a parameter given twice."""


class TooLarge(errors.InvalidInput):
    """The request's body is longer than Aura reads."""


class UnsupportedMediaType(errors.InvalidInput):
    """The request's body is of a type that the route does not take."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    status: int
    name: str
    title: str


def _kind(status: int, name: str, title: str) -> _Kind:
    return _Kind(status=status, name=name, title=title)


_UNEXPECTED = _kind(500, "internal-error", "Something went wrong in Aura")

_TABLE: Mapping[type[errors.AuraError], _Kind] = {
    errors.AuraError: _UNEXPECTED,
    Malformed: _kind(400, "malformed-request", "The request cannot be read"),
    TooLarge: _kind(413, "too-large", "The request is too large"),
    UnsupportedMediaType: _kind(415, "unsupported-media-type", "The body's type is not taken here"),
    errors.InvalidInput: _kind(422, "invalid-input", "The input cannot be used"),
    errors.AuthenticationRequired: _kind(401, "authentication-required", "Sign in first"),
    errors.PermissionDenied: _kind(403, "permission-denied", "Not allowed"),
    errors.LimitReached: _kind(429, "limit-reached", "A limit of the agent is used up"),
    errors.NotFound: _kind(404, "not-found", "Not found"),
    errors.Conflict: _kind(409, "conflict", "The present state does not allow it"),
    errors.ReauthorizationRequired: _kind(
        409, "reauthorization-required", "The account must be connected again"
    ),
    errors.CredentialError: _kind(503, "credential-unusable", "The credential cannot be used now"),
    errors.RefreshFailed: _kind(503, "refresh-failed", "The credential cannot be renewed now"),
    errors.RateLimited: _kind(429, "rate-limited", "The provider asks to slow down"),
    errors.ProviderRejected: _kind(422, "provider-rejected", "The provider refused"),
    errors.ProviderError: _kind(502, "provider-error", "The provider answered with an error"),
    errors.ProviderUnavailable: _kind(502, "provider-unavailable", "The provider does not answer"),
    errors.ConfigurationError: _kind(503, "not-configured", "The operator has to set this up"),
    errors.PluginError: _kind(503, "plugin-unusable", "The integration's plugin does not work"),
    errors.Unavailable: _kind(503, "unavailable", "Aura is shutting down"),
    errors.ComputeError: _kind(502, "compute-error", "The machines' provider failed"),
    errors.EnvelopeError: _kind(
        409, "credential-unreadable", "The stored credential cannot be opened"
    ),
    errors.KeyMissing: _kind(503, "key-missing", "The operator has to put a master key back"),
    errors.MalformedMessage: _kind(400, "malformed-message", "The message cannot be read"),
    errors.MessageTooLarge: _kind(413, "too-large", "The message is too large"),
    errors.BearerRejected: _kind(401, "bearer-rejected", "The token is not valid"),
    errors.SignatureInvalid: _kind(401, "signature-invalid", "The signature does not verify"),
    errors.WrongRecipient: _kind(409, "wrong-recipient", "The message is for another machine"),
    errors.StaleRevision: _kind(409, "stale-revision", "A newer revision is known"),
    errors.RevisionConflict: _kind(409, "revision-conflict", "The revision has another content"),
    errors.WireError: _kind(400, "message-refused", "The message is refused"),
}


def _kind_of(error: errors.AuraError) -> _Kind:
    return next(_TABLE[base] for base in type(error).__mro__ if base in _TABLE)


def status_of(error: Exception) -> int:
    """The HTTP status that an error is answered with."""
    if isinstance(error, HTTPException):
        return error.status_code
    return _kind_of(error).status if isinstance(error, errors.AuraError) else _UNEXPECTED.status


def problem_document(error: Exception, *, request_id: str) -> dict[str, Any]:
    """The document for an error: its own words if Aura raised it on purpose, else none."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        return {
            "type": "about:blank",
            "title": phrase,
            "status": error.status_code,
            "request_id": request_id,
        }
    known = isinstance(error, errors.AuraError)
    kind = _kind_of(error) if isinstance(error, errors.AuraError) else _UNEXPECTED
    document: dict[str, Any] = {
        "type": f"urn:aura:problem:{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "request_id": request_id,
    }
    if not known:
        return document
    for name in ("hint", "fields", "rule", "retry_after", "stored"):
        value = getattr(error, name, None)
        if value:
            document[name] = value
    return {**document, "detail": getattr(error, "message", "")}


def problem_response(request: Request, error: Exception) -> JSONResponse:
    """Answers an error."""
    document = problem_document(error, request_id=request.scope.get("request_id", ""))
    headers = dict(getattr(error, "headers", None) or {})
    if isinstance(error, errors.AuthenticationRequired | errors.BearerRejected):
        headers["WWW-Authenticate"] = 'Bearer realm="aura"'
    if isinstance(error, errors.RateLimited | errors.LimitReached):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return JSONResponse(
        document,
        status_code=document["status"],
        headers=headers,
        media_type="application/problem+json",
    )
