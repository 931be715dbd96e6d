"""Reading a token endpoint's answer (RFC 6749 §5) as the manifest says, whatever it is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from pydantic import SecretStr

from aura_core.adapter._values import TokenAnswer
from aura_core.api import Reply, document, error_in_success, explain, redact, retry_after
from aura_core.errors import (
    AuraError,
    ConfigurationError,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
    ReauthorizationRequired,
)
from aura_core.manifest import ErrorInSuccess, RateLimit, TokenResponse, read_path

__all__ = ["Reading", "checked_document", "read_answer"]

_LONGEST_LIFE = 10 * 365 * 86400
_LONGEST_TOKEN = 65536
_GRANT = frozenset({"invalid_grant"})
_CLIENT = frozenset({"invalid_client", "unauthorized_client"})
_NOT_BEARER = frozenset({"dpop", "mac", "pop", "n_a"})
"""RFC 9449 §5, draft-ietf-oauth-v2-http-mac, RFC 9201, RFC 8693 §2.2.1."""
_TRANSIENT = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one call's answer is to be read. ``users_own``: the credentials sent are the user's, so
    that a refusal of them is nothing the operator could mend."""

    name: str
    facts: TokenResponse
    statuses: tuple[int, ...]
    now: datetime
    secrets: tuple[SecretStr, ...]
    error: ErrorInSuccess | None = None
    users_own: bool = False
    empty_is_fine: bool = False


def checked_document(reply: Reply, how: Reading) -> Any:
    """The answer as a document, or the error that it means.

    Transient (no answer, 408, 429, 5xx, something that is not what a token endpoint says) is never
    taken for a refusal: the user would be asked to connect again because of a proxy's error page.
    """
    if reply.status == 429:
        wait = retry_after(reply, RateLimit(), now=how.now)
        raise RateLimited(
            f"{how.name} asks to slow down.", retry_after=5.0 if wait is None else wait
        )
    if reply.status == 408 or reply.status >= 500:
        raise ProviderUnavailable(f"{how.name} failed with status {reply.status}.")
    told = _parse(reply, how.facts)
    accepted = reply.status in how.statuses
    if told is None:
        if accepted and how.empty_is_fine:
            return {}
        if how.users_own and reply.status == 401:
            raise _refusal(reply, how, "invalid_client", "")
        raise ProviderUnavailable(
            f"{how.name} answered with status {reply.status} and no document that could be read.",
            effect="unclear" if accepted else "none",
        )
    found = error_in_success(told, how.error)
    if found is not None:
        raise _refusal(reply, how, *found)
    if not accepted or _is_refusal(told, how.facts):
        raise _refusal(reply, how, *_spoken(told, reply, how))
    return told


def _is_refusal(told: Any, facts: TokenResponse) -> bool:
    """A success status whose document is an error after all (GitHub and others)."""
    error = read_path(told, facts.error_path)
    return isinstance(error, str) and error != "" and _token(told, facts.access_token_path) is None


def _spoken(told: Any, reply: Reply, how: Reading) -> tuple[str | None, str]:
    code = read_path(told, how.facts.error_path)
    words = read_path(told, how.facts.error_description_path)
    other_code, other_words = explain(reply, how.secrets)
    return (
        code if isinstance(code, str) else other_code,
        words if isinstance(words, str) else other_words,
    )


def _refusal(reply: Reply, how: Reading, code: str | None, words: str) -> AuraError:
    """The error that a refusal means (RFC 6749 §5.2)."""
    name = how.name
    shown = None if code is None else redact(code, how.secrets)
    said = redact(words, how.secrets)
    told = ": ".join(part for part in (shown, said if said != shown else "") if part) or "no reason"
    client = code in _CLIENT or code in how.facts.invalid_client_codes
    if how.users_own and (client or reply.status == 401):
        return ReauthorizationRequired(
            f"{name} does not accept these credentials ({told}).",
            hint="Connect the account again.",
        )
    if code in _GRANT or code in how.facts.invalid_grant_codes:
        return ReauthorizationRequired(
            f"{name} no longer accepts this authorization ({told}).",
            hint="Connect the account again.",
        )
    if client:
        return ConfigurationError(
            f"{name} does not accept Aura's OAuth client ({told}).",
            hint="Check the client's id, secret and settings at the provider.",
        )
    if code in _TRANSIENT:
        return ProviderUnavailable(f"{name} cannot answer now ({told}).")
    return ProviderRejected(f"{name} refused ({told}).", status=reply.status, code=shown)


def _parse(reply: Reply, facts: TokenResponse) -> Any:
    """The document, form-encoded ones too where the manifest allows; ``None`` for anything else."""
    if facts.format != "form":
        told = document(reply)
        if isinstance(told, dict | list):
            return told
        if facts.format == "json":
            return None
    try:
        pairs = parse_qsl(reply.body.decode("ascii"), strict_parsing=True, max_num_fields=100)
    except ValueError:
        return None
    # An HTML page can pass for one strange pair: names of parameters are plain words.
    return dict(pairs) if all(re.fullmatch(r"[\w.\-\[\]]+", name) for name, _ in pairs) else None


def read_answer(told: Any, reply: Reply, how: Reading) -> TokenAnswer:
    """The tokens in an answer.

    Raises :class:`ProviderRejected` when there is no access token, or anything in it that cannot be
    what it is called: half of an answer is not stored, because the half that is missing may be the
    one that renews. Its effect is ``unclear``: the provider meant it as success.
    """
    facts = how.facts
    if isinstance(told, dict):
        told = {**told, **_from_elsewhere(reply, facts)}
    source = told
    access = _token(told, facts.access_token_path)
    if access is None and facts.alternate_container is not None:
        source = read_path(told, facts.alternate_container)
        access = _token(source, facts.access_token_path)
    if access is None:
        raise _unusable("without an access token", reply, how)
    _check_type(source, reply, how)
    return TokenAnswer(
        access_token=SecretStr(access),
        refresh_token=_secret(_refresh_token(source, reply, how)),
        expires_at=_expiry(read_path(source, facts.expires_path), facts, how.now),
        scopes=_scopes(read_path(source, facts.scope_path), facts.scope_delimiter),
        metadata={
            key: value
            for key, path in facts.metadata.items()
            if (value := read_path(told, path)) is not None
        },
        id_token=_secret(_token(source, facts.id_token_path)),
        raw=told if isinstance(told, dict) else {},
    )


def _unusable(what: str, reply: Reply, how: Reading) -> ProviderRejected:
    return ProviderRejected(f"{how.name} answered {what}.", status=reply.status, effect="unclear")


def _check_type(source: Any, reply: Reply, how: Reading) -> None:
    """RFC 6749 §7.1: a token of a type that is not understood must not be used. Providers write
    all kinds of words for a bearer token (``bot``, ``user``, ``JWT``); only those that are known to
    ask for more than the token are refused."""
    said = source.get("token_type") if isinstance(source, dict) else None
    if isinstance(said, str) and said.strip().lower() in _NOT_BEARER:
        raise _unusable(f"with a token of the type {said.strip()}, not a bearer token", reply, how)


def _refresh_token(source: Any, reply: Reply, how: Reading) -> str | None:
    """The new refresh token, if there is one. A value that can be none is no "keep the old one":
    the provider meant to replace it, and the old one may be spent."""
    value = read_path(source, how.facts.refresh_token_path)
    if value is None or value == "":
        return None
    token = _token(source, how.facts.refresh_token_path)
    if token is None:
        raise _unusable("with a refresh token that cannot be one", reply, how)
    return token


def _from_elsewhere(reply: Reply, facts: TokenResponse) -> dict[str, str]:
    found = {
        part: reply.headers[header.lower()]
        for part, header in facts.from_headers.items()
        if header.lower() in reply.headers
    }
    return found | {
        part: reply.cookies[cookie]
        for part, cookie in facts.from_cookies.items()
        if cookie in reply.cookies
    }


def _token(source: Any, path: str) -> str | None:
    """A token: non-empty text of visible ASCII, as RFC 6749 Appendix A.12 has it. Anything else
    could not be put into a header, or would end it."""
    value = read_path(source, path)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TOKEN:
        return None
    return value if all(0x20 <= ord(c) < 0x7F for c in value) and value.strip() else None


def _secret(value: str | None) -> SecretStr | None:
    return None if value is None else SecretStr(value)


def _scopes(value: Any, delimiter: str) -> tuple[str, ...] | None:
    if isinstance(value, list):
        # A list of something else says nothing: it must not take away what was granted.
        return tuple(value) if all(isinstance(item, str) for item in value) else None
    if not isinstance(value, str):
        return None
    # White space separates everywhere (RFC 6749 §3.3), whatever the provider's own delimiter is.
    return tuple(part for part in re.split(rf"\s+|{re.escape(delimiter)}", value) if part)


def _expiry(value: Any, facts: TokenResponse, now: datetime) -> datetime | None:
    """When the token ends. What is missing, nonsense or not positive means "not said", and then
    the manifest's assumption holds: reading it as "expired" would refresh without end."""
    life = _lifetime(value, facts.expires_kind, now)
    if life is None or life <= 0:
        assumed = facts.assumed_lifetime
        return None if assumed is None else now + timedelta(seconds=assumed)
    return now + timedelta(seconds=min(life, _LONGEST_LIFE))


def _lifetime(value: Any, kind: str, now: datetime) -> float | None:
    if kind == "iso8601":
        return _seconds_until(value, now)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if kind in ("milliseconds", "epoch_milliseconds"):
        number /= 1000
    return number - now.timestamp() if kind.startswith("epoch") else number


def _seconds_until(value: Any, now: datetime) -> float | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
