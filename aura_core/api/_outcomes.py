"""What an answer means: the provider's errors as ours, in its own words and without secrets."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

from aura_core.errors import (
    AuraError,
    ProviderRejected,
    ProviderUnavailable,
    ReauthorizationRequired,
)
from aura_core.manifest import ErrorInSuccess, RateLimit, read_path
from aura_core.rate_limits import document, rate_limited
from aura_core.tools import ApiAnswer

__all__ = [
    "error_in_success",
    "explain",
    "failure",
    "redact",
]

_MESSAGES = (
    "error_description", "error.message", "message", "detail.message", "errors[0].message",
    "detail", "error.description", "description", "title", "error_message", "msg", "error",
)  # fmt: skip
_CODES = (
    "detail.status", "error.code", "error.status", "error", "code", "errors[0].code",
    "[0].errorCode", "type",
)  # fmt: skip
_WORDS = 300


def redact(text: str, secrets: Iterable[SecretStr]) -> str:
    """The text with every secret (as it is, as URLs and JSON spell it, and inside of base64 and
    hexadecimal) replaced, printable characters only, and short: providers quote what was sent to
    them, headers too."""
    values = [secret.get_secret_value() for secret in secrets]
    text = _ENCODED.sub(lambda match: "***" if _hides(match[0], values) else match[0], text)
    for value in values:
        for spelling in {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}:
            if len(spelling) >= 4:
                text = text.replace(spelling, "***")
    plain = "".join(c if c.isprintable() else " " for c in text).strip()
    return plain if len(plain) <= _WORDS else plain[:_WORDS] + "..."


_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}", re.ASCII)


def _hides(word: str, values: Iterable[str]) -> bool:
    """Whether a word decodes to something that holds a secret, as ``Basic`` credentials do."""
    plain = word.rstrip("=").replace("-", "+").replace("_", "/")
    decoded = [base64.b64decode(plain[: len(plain) - len(plain) % 4])]
    # The end of three bytes or fewer, and words whose beginning belongs to something else.
    decoded += [
        base64.b64decode(f"{rest}{'=' * (-len(rest) % 4)}")
        for rest in (plain[skip:] for skip in range(4))
        if len(rest) % 4 != 1
    ]
    if re.fullmatch(r"([0-9A-Fa-f]{2})+", word):
        decoded.append(bytes.fromhex(word))
    found = [value.encode() for value in values if len(value) >= 4]
    return any(value in content for value in found for content in decoded)


def explain(answer: ApiAnswer, secrets: Iterable[SecretStr]) -> tuple[str | None, str]:
    """The provider's error code and its words, as far as it says any."""
    told = document(answer)
    hidden = tuple(secrets)
    code = next((c for path in _CODES if isinstance(c := read_path(told, path), str | int)), None)
    for path in _MESSAGES:
        words = read_path(told, path)
        if isinstance(words, str) and words.strip():
            return _text(code, hidden), redact(words, hidden)
    return _text(code, hidden), ""


def _text(code: str | int | None, secrets: Iterable[SecretStr]) -> str | None:
    return None if code is None else redact(str(code), secrets)


def error_in_success(told: Any, declared: ErrorInSuccess | None) -> tuple[str | None, str] | None:
    """The code and the words of an error that came with a success status, or ``None``."""
    if declared is None:
        return None
    found = read_path(told, declared.path)
    if (found is None) if declared.ok is None else _same(found, declared.ok):
        return None
    code = read_path(told, declared.code_path) if declared.code_path else found
    words = read_path(told, declared.message_path) if declared.message_path else None
    return (
        str(code) if isinstance(code, str | int) else None,
        words if isinstance(words, str) else "",
    )


def _same(found: Any, wanted: str | bool | int) -> bool:
    # True == 1 in Python; a provider's {"ok": 1} is not its {"ok": true}.
    return type(found) is type(wanted) and bool(found == wanted)


def failure(
    answer: ApiAnswer,
    *,
    name: str,
    rate_limit: RateLimit,
    secrets: Iterable[SecretStr] = (),
    now: datetime,
) -> AuraError | None:
    """The error that an answer of an API call means, or ``None`` below status 300."""
    if answer.status < 300:
        return None
    hidden = tuple(secrets)
    limited = rate_limited(answer, rate_limit, name=name, now=now)
    if limited is not None:
        return limited
    code, words = explain(answer, hidden)
    said = f": {words}" if words else "."
    if answer.status == 401:
        return ReauthorizationRequired(
            f"{name} does not accept the credential{said}", hint="Connect the account again."
        )
    if answer.status == 408 or answer.status >= 500:
        return ProviderUnavailable(f"{name} failed with status {answer.status}{said}")
    if answer.status < 400:
        return ProviderRejected(
            f"{name} answered with a redirect, which is not followed.", status=answer.status
        )
    return ProviderRejected(
        f"{name} refused the request with status {answer.status}{said}",
        status=answer.status,
        code=code,
    )
