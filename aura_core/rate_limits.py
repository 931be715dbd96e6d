"""How a provider says "slow down", and for how long: the manifest's facts held against an answer.

The same on both sides: for calls of the control plane, and for those that the broker passes on.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from aura_core.errors import RateLimited
from aura_core.manifest import RateLimit, read_path
from aura_core.tools import ApiAnswer

__all__ = ["document", "is_rate_limited", "rate_limited", "retry_after"]

_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9]{2}:?[0-9]{2})?")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LONGEST_WAIT = 86400.0
_DEFAULT_WAIT = 1.0


def document(answer: ApiAnswer) -> Any:
    """The body as JSON, or ``None`` where it is none."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def rate_limited(
    answer: ApiAnswer, facts: RateLimit, *, name: str, now: datetime
) -> RateLimited | None:
    """The error that the answer means if it asks to slow down; ``name`` is the provider's."""
    if not is_rate_limited(answer, facts):
        return None
    wait = retry_after(answer, facts, now=now)
    return RateLimited(
        f"{name} asks to slow down.", retry_after=_DEFAULT_WAIT if wait is None else wait
    )


def is_rate_limited(answer: ApiAnswer, facts: RateLimit) -> bool:
    """Whether the provider asks to slow down. A status that means other things too (403) needs
    evidence: a declared code, nothing remaining, or a time to come back."""
    if answer.status not in facts.statuses:
        return False
    if answer.status == 429:
        return True
    if facts.code_path is not None:
        found = read_path(document(answer), facts.code_path)
        if str(found) in facts.codes:
            return True
    if facts.remaining_header and answer.headers.get(facts.remaining_header.lower()) == "0":
        return True
    return bool(facts.retry_after_header and answer.headers.get(facts.retry_after_header.lower()))


def retry_after(answer: ApiAnswer, facts: RateLimit, *, now: datetime) -> float | None:
    """Seconds to wait as the provider says them (RFC 9110 §10.2.3, manifest), or ``None``."""
    header = facts.retry_after_header and answer.headers.get(facts.retry_after_header.lower())
    wait = _moment(header, "delta_seconds", now) if header else None
    if wait is None and facts.reset_header:
        said = answer.headers.get(facts.reset_header.lower())
        wait = _moment(said, facts.reset_kind, now) if said else None
    if wait is None and facts.hint_path:
        said = read_path(document(answer), facts.hint_path)
        wait = _hint(str(said), now) if said is not None else None
    return None if wait is None else min(max(wait, 0.0), _LONGEST_WAIT)


def _moment(text: str, kind: str, now: datetime) -> float | None:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        if kind == "epoch_seconds":
            return number - now.timestamp()
        return number / 1000 - now.timestamp() if kind == "epoch_milliseconds" else number
    try:
        moment = parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now.timestamp()


def _hint(text: str, now: datetime) -> float | None:
    stamp = _STAMP.search(text)
    if stamp is not None:
        return _moment(stamp[0], "iso8601", now)
    number = _NUMBER.search(text)
    return float(number[0]) if number else None
