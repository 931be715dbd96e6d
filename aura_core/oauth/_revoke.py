"""Revocation (RFC 7009, or as the manifest says): one line of receipt for each token."""

from __future__ import annotations

from typing import Literal

from authlib.oauth2.auth import ClientAuth
from pydantic import SecretStr

from aura_core.adapter._values import Context, RevocationResult
from aura_core.api import Reply, document, error_in_success, explain, fetch, redact
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import AuraError, ConfigurationError, ProviderUnavailable, RateLimited
from aura_core.manifest import Revocation
from aura_core.oauth._request import Prepared, encode
from aura_core.oauth._templates import Values, reveal

__all__ = ["revoke"]

_Kind = Literal["access_token", "refresh_token"]
_GONE = frozenset(
    {"invalid_token", "token_revoked", "token_expired", "invalid_grant", "unknown_token"}
)


async def revoke(ctx: Context, envelope: CredentialEnvelope) -> tuple[RevocationResult, ...]:
    """Revoke what the envelope holds. Never raises for what the provider does: a disconnect goes
    on, and its receipt says what could not be done."""
    facts = ctx.method.revocation
    held = [kind for kind in ("refresh_token", "access_token") if kind in envelope.secrets]
    if facts is None:
        if not held:
            return (RevocationResult(token="api_key", outcome="not_offered", detail=_BY_HAND),)
        return tuple(
            RevocationResult(token=_kind(kind), outcome="not_offered", detail=_BY_HAND)
            for kind in held
        )
    results: list[RevocationResult] = []
    for kind in facts.revokes:
        if kind not in held:
            continue
        if facts.cascades and results and results[-1].outcome in ("revoked", "already_invalid"):
            results.append(
                RevocationResult(
                    token=kind, outcome=results[-1].outcome, detail="with the whole grant"
                )
            )
            continue
        results.append(await _one(ctx, facts, envelope, kind))
    return tuple(results)


_PASSING = frozenset({408, 425, 429})
"""Beside 5xx: RFC 7009 §2.2.1 says of 503 that the token is still valid and may be sent again."""

_OPERATOR = frozenset({"invalid_client", "unauthorized_client"})
"""The operator's settings are wrong, not the token: once they are mended it can be revoked."""

_BY_HAND = "The provider offers no way to do it; the user can in the account's settings."


def _kind(name: str) -> _Kind:
    return "access_token" if name == "access_token" else "refresh_token"


async def _one(
    ctx: Context, facts: Revocation, envelope: CredentialEnvelope, kind: _Kind
) -> RevocationResult:
    token = envelope.secrets[kind]
    hidden = [*envelope.secrets.values()]
    if ctx.client is not None and ctx.client.client_secret is not None:
        hidden.append(ctx.client.client_secret)
    try:
        request = _request(ctx, facts, envelope, kind, token)
        reply = await fetch(
            ctx.http, request.method, request.url, headers=request.headers, content=request.content
        )
    except AuraError as error:
        passing = isinstance(error, ProviderUnavailable | RateLimited | ConfigurationError)
        detail = redact(str(error), hidden)
        return RevocationResult(token=kind, outcome="failed", detail=detail, retry=passing)
    code, words = _refusal(facts, reply, hidden)
    if code is None:
        return RevocationResult(token=kind, outcome="revoked")
    if code in _GONE or words in _GONE:
        return RevocationResult(token=kind, outcome="already_invalid", detail=code)
    detail = redact(f"status {reply.status}: {code}: {words}".rstrip(": "), hidden)
    passing = reply.status in _PASSING or reply.status >= 500 or code in _OPERATOR
    return RevocationResult(token=kind, outcome="failed", detail=detail, retry=passing)


def _refusal(facts: Revocation, reply: Reply, hidden: list[SecretStr]) -> tuple[str | None, str]:
    if reply.status in facts.success_statuses:
        found = error_in_success(document(reply), facts.error)
        return (None, "") if found is None else (redact(found[0] or "refused", hidden), found[1])
    code, words = explain(reply, hidden)
    return code or "refused", words


def _request(
    ctx: Context,
    facts: Revocation,
    envelope: CredentialEnvelope,
    kind: _Kind,
    token: SecretStr,
) -> Prepared:
    values = Values(ctx, reveal(envelope.secrets))
    params: dict[str, str] = {facts.token_param: token.get_secret_value()}
    if facts.hint_param:
        params[facts.hint_param] = kind
    params |= values.texts(facts.params)
    headers = {"Accept": "application/json"}
    url = values.text(facts.url)
    client, secret = values.get("client_id"), values.get("client_secret")
    if facts.auth == "bearer":
        headers["Authorization"] = f"Bearer {values.text('{access_token}')}"
    elif facts.auth == "client_secret_basic":
        auth = ClientAuth(client or "", secret or "", auth_method="client_secret_basic")
        _, headers, _ = auth.prepare(facts.method, url, headers, "")
    elif facts.auth == "client_secret_post":
        params |= {k: v for k, v in (("client_id", client), ("client_secret", secret)) if v}
    elif client is not None and secret is None:
        params["client_id"] = client  # a public client says who it is (RFC 7009 §2.1)
    return encode(facts.method, ctx.manifest.locate(url), facts.body, params, headers)
