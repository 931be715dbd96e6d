"""The lines of a receipt that tell what became of each token at the provider."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aura_control.db.models import PendingRevocation
from aura_control.db.repositories.revocations import Lines
from aura_core.adapter import RevocationResult

__all__ = ["for_all", "line", "merged"]

_BY_HAND = "It can be taken back by hand, in the account's settings at the provider."
_SETTLED = frozenset({"revoked", "already_invalid", "not_offered"})


def for_all(
    row: PendingRevocation, outcome: Any, detail: str, *, retry: bool = False
) -> list[RevocationResult]:
    tokens: list[Any] = [*row.lines]
    return [
        RevocationResult(token=token, outcome=outcome, detail=detail, retry=retry)
        for token in tokens
    ]


def line(
    outcome: str, detail: str, *, at: datetime | None, retry_at: datetime | None = None
) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "detail": detail,
        "at": at.isoformat() if at else None,
        "retry_at": retry_at.isoformat() if retry_at else None,
    }


def merged(
    row: PendingRevocation,
    results: Sequence[RevocationResult],
    *,
    now: datetime,
    retry_at: datetime | None,
) -> Lines:
    """The lines after an attempt. What was settled by an earlier one stays as it was told then:
    sent once more, a revoked token is only "already invalid"."""
    lines = {token: dict(line) for token, line in row.lines.items()}
    for result in results:
        before = lines.get(result.token)
        if before is not None and before["outcome"] in _SETTLED:
            continue
        passing = result.outcome == "failed" and result.retry
        detail = result.detail
        if result.outcome == "failed" and not (passing and retry_at):
            detail = f"{detail.rstrip('.')}. {_BY_HAND}".lstrip(". ")
        lines[result.token] = line(
            result.outcome, detail, at=now, retry_at=retry_at if passing else None
        )
    silent = [token for token, line in lines.items() if line["outcome"] == "pending"]
    for token in silent:
        # The manifest revokes the other token only: this one ends with it, or by itself.
        lines[token] = line("not_offered", "The provider takes no such token back.", at=now)
    return lines
