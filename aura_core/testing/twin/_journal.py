"""What was asked of the twin, for tests: with every secret as its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Journal", "Record", "digest"]

_OPEN = frozenset(
    {"grant_type", "response_type", "redirect_uri", "scope", "user_scope", "client_id", "state",
     "code_challenge_method", "token_type_hint", "access_type", "prompt"}
)  # fmt: skip
"""Parameters that may be read in the open; all others are hashed: they may well be secrets."""


def digest(secret: str) -> str:
    """How the journal writes a secret: ``sha256:`` and 16 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One call. ``endpoint`` is what it was taken for: ``authorization``, ``token``,
    ``revocation``, ``step``, ``call`` (the manifest's own) or ``api``."""

    endpoint: str
    method: str
    host: str
    path: str
    status: int
    params: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = None
    """Digest of the header's value."""
    error: str | None = None


class Journal:
    """All calls so far, oldest first."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def of(self, endpoint: str) -> list[Record]:
        return [record for record in self.records if record.endpoint == endpoint]

    def add(
        self,
        *,
        endpoint: str,
        method: str,
        host: str,
        path: str,
        status: int,
        params: Mapping[str, str],
        authorization: str | None,
        error: str | None,
    ) -> None:
        self.records.append(
            Record(
                endpoint=endpoint,
                method=method,
                host=host,
                path=path,
                status=status,
                params={k: v if k in _OPEN else digest(v) for k, v in params.items()},
                authorization=None if authorization is None else digest(authorization),
                error=error,
            )
        )
