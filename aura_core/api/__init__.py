"""Calls to providers: the client, bounded answers, and the ``api`` that tools get."""

from __future__ import annotations

from aura_core.api._bound import BoundApi
from aura_core.api._connecting import CheckedTransport, Resolve
from aura_core.api._http import MAX_ANSWER, USER_AGENT, Reply, fetch, http_client
from aura_core.api._outcomes import error_in_success, explain, failure, redact
from aura_core.rate_limits import document, retry_after

__all__ = [
    "MAX_ANSWER",
    "USER_AGENT",
    "BoundApi",
    "CheckedTransport",
    "Reply",
    "Resolve",
    "document",
    "error_in_success",
    "explain",
    "failure",
    "fetch",
    "http_client",
    "redact",
    "retry_after",
]
