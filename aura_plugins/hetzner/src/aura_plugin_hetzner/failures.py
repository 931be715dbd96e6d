"""What Hetzner's refusals mean to whoever asked for a machine (API reference, "Error Codes")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import hcloud

from aura_core.errors import ComputeError

__all__ = ["Lost", "Refused", "meaning"]


class Refused(Exception):
    """Hetzner answered with an error: ``code`` is its word, or ``http_<status>``; ``said`` what it
    says, bounded and printable."""

    def __init__(self, code: str, said: str, details: Any = None) -> None:
        super().__init__(code)
        self.code = code
        self.said = said
        self.details = details

    @classmethod
    def of(cls, error: hcloud.APIException) -> Refused:
        code = error.code
        if isinstance(code, int):
            # A status: what came is no document, or none of an error. Below 400 it may have worked.
            return cls(_BY_STATUS.get(code, f"http_{code}" if code >= 400 else "server_error"), "")
        if not re.fullmatch(r"[a-z0-9_]{1,64}", str(code)):
            return cls("unknown", "")
        return cls(code, _plain(error.message), error.details)


class Lost(Exception):
    """No answer, or one that leaves open what was done."""

    def __init__(self, what: str, *, code: str = "no_answer") -> None:
        super().__init__(what)
        self.code = code


_BY_STATUS = {
    401: "unauthorized",
    404: "not_found",
    429: "rate_limit_exceeded",
    500: "server_error",
    502: "bad_gateway",
    503: "unavailable",
    504: "timeout",
}

_TOKEN_HINT = (
    "Make a token with read and write permission in the Hetzner Console (project, Security, "
    "API tokens) and set AURA_HETZNER_TOKEN."
)

_MEANINGS: Mapping[str, tuple[str, str | None, bool]] = MappingProxyType(
    {
        "unauthorized": ("Hetzner does not accept the API token.", _TOKEN_HINT, False),
        "token_readonly": ("The API token for Hetzner may only read.", _TOKEN_HINT, False),
        "forbidden": ("The API token for Hetzner may not do this.", _TOKEN_HINT, False),
        "resource_limit_exceeded": (
            "The Hetzner project has reached its limit",
            "Destroy machines that are not needed, or ask for a higher limit in the Hetzner "
            "Console (Limits).",
            False,
        ),
        "protected": (
            "The server is protected from deletion in the Hetzner Console.",
            "Take the protection off there; Aura does not.",
            False,
        ),
        "locked": ("Hetzner is still at work on this server.", None, True),
        "conflict": ("Something else changes this at Hetzner at the same time.", None, True),
        "maintenance": ("Hetzner does maintenance and does not do this now.", None, True),
        "rate_limit_exceeded": (
            "Hetzner's limit of requests is used up by others.",
            "Other programs work on the same project; give Aura one of its own.",
            True,
        ),
        "not_found": ("Hetzner does not know what the request names.", None, True),
    }
)


def meaning(failure: Refused | Lost, *, doing: str) -> ComputeError:
    """The error for the user; ``doing`` completes "Hetzner did not"."""
    if isinstance(failure, Lost):
        return ComputeError(
            f"Hetzner did not say whether it could {doing} ({failure.code}).",
            retryable=True,
            hint="Aura looks again before it asks again.",
        )
    if failure.code not in _MEANINGS:
        said = f": {failure.said}" if failure.said else ""
        return ComputeError(f"Hetzner did not {doing} ({failure.code}{said}).", retryable=False)
    message, hint, retryable = _MEANINGS[failure.code]
    if failure.code == "resource_limit_exceeded":
        message = f"{message} ({_limits(failure)})."
    return ComputeError(message, retryable=retryable, hint=hint)


def _limits(failure: Refused) -> str:
    details = failure.details if isinstance(failure.details, dict) else {}
    limits = details.get("limits")
    names = [str(entry.get("name")) for entry in limits or () if isinstance(entry, dict)]
    known = [name for name in names if re.fullmatch(r"[a-z0-9_]{1,64}", name)]
    return ", ".join(known) or failure.said or "not said which"


def _plain(text: Any) -> str:
    """A stranger's words: one line of at most 200 characters."""
    return "".join(c for c in str(text)[:200] if c.isprintable())
