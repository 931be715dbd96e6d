"""Token endpoint's answers in the form that the manifest declares."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from aura_core.manifest import ErrorInSuccess, Manifest, TokenResponse
from aura_core.testing.twin._accounts import write_path
from aura_core.testing.twin._grants import Issued, Refused

__all__ = ["refusal", "tokens"]

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def tokens(issued: Issued, facts: TokenResponse, manifest: Manifest, now: datetime) -> Response:
    """RFC 6749 §5.1, bent as declared."""
    parts: dict[str, Any] = {facts.access_token_path: issued.access_token}
    if issued.refresh_token is not None:
        parts[facts.refresh_token_path] = issued.refresh_token
    if issued.lifetime is not None:
        parts[facts.expires_path] = _expiry(issued.lifetime, facts, now)
    parts[facts.scope_path] = facts.scope_delimiter.join(issued.grant.scopes)
    headers = dict(_NO_STORE)
    cookies: dict[str, str] = {}
    elsewhere = {"access_token": issued.access_token, "refresh_token": issued.refresh_token}
    for part, header in facts.from_headers.items():
        headers[header] = elsewhere.get(part) or ""
        parts.pop(part, None)
    for part, cookie in facts.from_cookies.items():
        cookies[cookie] = elsewhere.get(part) or ""
        parts.pop(part, None)
    document: Any = {"token_type": "Bearer"}
    for path, value in parts.items():
        document = write_path(document, path, value)
    for key, path in facts.metadata.items():
        document = write_path(document, path, issued.grant.account.fact(key, manifest))
    if facts.error is not None and facts.error.ok is not None:
        document = write_path(document, facts.error.path, facts.error.ok)
    response = _encoded(document, facts, facts.success_statuses[0], headers)
    for cookie, value in cookies.items():
        response.set_cookie(cookie, value, httponly=True)
    return response


def refusal(error: Refused, facts: TokenResponse) -> Response:
    """RFC 6749 §5.2, bent as declared: also as an error with a success status."""
    document: Any = write_path({}, facts.error_path, error.code)
    document = write_path(document, facts.error_description_path, error.description)
    status = error.status
    if facts.error is not None:
        document = _marked(document, facts.error, error.code)
        status = facts.success_statuses[0]
    headers = dict(_NO_STORE)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="twin"'
    return _encoded(document, facts, status, headers)


def _marked(document: Any, declared: ErrorInSuccess, code: str) -> Any:
    if declared.ok is None:
        return write_path(document, declared.code_path or declared.path, code)
    failed = (not declared.ok) if isinstance(declared.ok, bool) else f"not {declared.ok}"
    document = write_path(document, declared.path, failed)
    return write_path(document, declared.code_path, code) if declared.code_path else document


def _encoded(document: Any, facts: TokenResponse, status: int, headers: dict[str, str]) -> Response:
    if facts.format == "form":
        flat = {k: v if isinstance(v, str | int) else json.dumps(v) for k, v in document.items()}
        return Response(
            urlencode(flat),
            status_code=status,
            headers=headers,
            media_type="application/x-www-form-urlencoded",
        )
    return JSONResponse(document, status_code=status, headers=headers)


def _expiry(lifetime: int, facts: TokenResponse, now: datetime) -> Any:
    ends = now + timedelta(seconds=lifetime)
    kinds: dict[str, Any] = {
        "seconds": lifetime,
        "milliseconds": lifetime * 1000,
        "epoch_seconds": int(ends.timestamp()),
        "epoch_milliseconds": int(ends.timestamp() * 1000),
        "iso8601": ends.astimezone(UTC).isoformat(),
    }
    return kinds[facts.expires_kind]
