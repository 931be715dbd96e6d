"""How an error reads over HTTP: one table from errors to RFC 9457 problem documents."""

from __future__ import annotations

import json
import logging
import re
import traceback
from typing import Any

from aiohttp import web

from aura_core import errors

__all__ = ["ANSWERED_BY", "PROBLEM_TYPE", "log_unexpected", "problem", "problem_response"]

PROBLEM_TYPE = "urn:aura:problem:"
"""``type`` is this and the error's name in kebab-case: ``urn:aura:problem:permission-denied``."""

ANSWERED_BY = "Aura-Answered-By"
"""``broker`` or ``provider``: whose words an answer's are. A provider may answer with problem
documents of its own; they must not pass for the daemon's."""

_STATUS: tuple[tuple[type[errors.AuraError], int, str], ...] = (
    (errors.MessageTooLarge, 413, "Too large"),
    (errors.BearerRejected, 401, "Not authenticated"),
    (errors.MalformedMessage, 400, "Malformed message"),
    (errors.SignatureInvalid, 403, "Signature refused"),
    (errors.WrongRecipient, 421, "Meant for another machine"),
    (errors.StaleRevision, 409, "Older than what is stored"),
    (errors.RevisionConflict, 409, "Revision used twice"),
    (errors.EnvelopeError, 422, "Does not open"),
    (errors.InvalidInput, 400, "Request cannot be used"),
    (errors.NotFound, 404, "Not found"),
    (errors.LimitReached, 429, "A limit of the agent is used up"),
    (errors.PermissionDenied, 403, "Refused"),
    (errors.ReauthorizationRequired, 503, "Connection needs its user"),
    (errors.RefreshFailed, 503, "Credential has expired"),
    (errors.RateLimited, 429, "Too many requests"),
    (errors.ProviderRejected, 502, "Answer of the provider refused"),
    (errors.ProviderUnavailable, 502, "Provider cannot be reached"),
)


def problem(error: BaseException) -> dict[str, Any]:
    """The problem document of an error. What is not ours says nothing of itself."""
    found = next((row for row in _STATUS if isinstance(error, row[0])), None)
    if found is None or not isinstance(error, errors.AuraError):
        return {
            "type": PROBLEM_TYPE + "internal-error",
            "title": "The daemon failed",
            "status": 500,
            "detail": "Its log says where.",
        }
    _, status, title = found
    document: dict[str, Any] = {
        "type": PROBLEM_TYPE + _kebab(type(error).__name__),
        "title": title,
        "status": status,
        "detail": error.message,
    }
    if error.hint is not None:
        document["hint"] = error.hint
    for member in ("rule", "stored", "retry_after", "code"):
        value = getattr(error, member, None)
        if value is not None:
            document[member] = value
    return document


def problem_response(error: BaseException) -> web.Response:
    """The problem as an answer that ends its connection."""
    document = problem(error)
    headers = {ANSWERED_BY: "broker"}
    if document["status"] == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="aura"'
    if isinstance(error, errors.RateLimited | errors.LimitReached):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    response = web.Response(
        body=json.dumps(document).encode(),
        status=document["status"],
        headers=headers,
        content_type="application/problem+json",
    )
    response.force_close()
    return response


def log_unexpected(logger: logging.Logger, error: Exception) -> None:
    """Log where a bug showed and what class it is of, but not its words: the text of a library's
    exception may quote what was being sent, and that is where the credentials are."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected %s\n%s", type(error).__name__, where)


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
