"""The grants: each builds one request, sends it once, and reads the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from aura_core.adapter._values import Context, OAuthClientSettings, TokenAnswer
from aura_core.api import Reply, fetch
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import (
    ConfigurationError,
    InvalidInput,
    ProviderRejected,
    ReauthorizationRequired,
)
from aura_core.manifest import (
    ClientCredentialsAuth,
    ExchangeStep,
    TokenExchangeAuth,
    TokenResponse,
    read_path,
)
from aura_core.oauth._answer import Reading, checked_document, read_answer
from aura_core.oauth._authorize import check_issuer, uses_pkce
from aura_core.oauth._request import Prepared, signed_jwt, step_request, token_request
from aura_core.oauth._templates import Values, accept_variables, oauth2, reveal

__all__ = ["client_credentials", "exchange_code", "refresh", "run_exchange"]


async def exchange_code(
    ctx: Context,
    *,
    code: str,
    redirect_uri: str,
    verifier: str | None,
    callback_params: Mapping[str, str] | None = None,
) -> TokenAnswer:
    """Exchange an authorization code (RFC 6749 §4.1.3), and take the steps that follow it.

    ``callback_params`` are the callback's query parameters: ``iss`` is checked, and what the
    manifest names is kept in the answer's metadata. Raises :class:`InvalidInput` before anything
    is sent; :class:`ReauthorizationRequired` for a code that is used or expired;
    :class:`ConfigurationError` for a client that the provider does not accept;
    :class:`ProviderUnavailable`, :class:`RateLimited`, :class:`ProviderRejected`.
    """
    method = oauth2(ctx)
    given = callback_params or {}
    check_issuer(ctx, given)
    if not code:
        raise InvalidInput(f"{ctx.manifest.name} answered without an authorization code.")
    kept = {name: given[name] for name in method.authorization.callback_metadata if name in given}
    values = Values(ctx, {"code": code, "redirect_uri": redirect_uri})
    values.add(accept_variables(ctx, kept, provided_by="callback"))
    params = {"code": code, "redirect_uri": redirect_uri}
    if verifier is not None and uses_pkce(method):
        params["code_verifier"] = verifier
    facts = method.token
    request = token_request(
        ctx,
        facts,
        values,
        grant_type=facts.grant_type or "authorization_code",
        params=params,
        client=ctx.client,
    )
    hidden = (code, verifier or "")
    answer = await _tokens(ctx, facts.response, request, _secrets(ctx, hidden))
    answer = await _follow(ctx, method.after_exchange, answer, values, facts.response)
    return replace(answer, metadata={**kept, **answer.metadata})


async def refresh(ctx: Context, envelope: CredentialEnvelope) -> TokenAnswer:
    """Renew an access token (RFC 6749 §6, or as the manifest says). Sends one request, ever.

    Raises :class:`ReauthorizationRequired` (``invalid_grant``, or nothing to refresh with),
    :class:`ConfigurationError` (``invalid_client``, ``unauthorized_client``), and
    :class:`ProviderUnavailable`, :class:`RateLimited` or :class:`ProviderRejected`, after which
    the stored tokens are as good as before.
    """
    method = oauth2(ctx)
    facts = method.refresh
    values = Values(ctx, reveal(envelope.secrets))
    params: dict[str, str] = {}
    used = envelope.access_token if facts.mode == "exchange" else envelope.refresh_token
    if used is None or facts.mode == "none":
        raise ReauthorizationRequired(
            f"{ctx.manifest.name} gave nothing to renew this connection with.",
            hint="Connect the account again.",
        )
    params[facts.token_param] = used.get_secret_value()
    if facts.sends_access_token and envelope.access_token is not None:
        params[facts.sends_access_token] = envelope.access_token.get_secret_value()
    request = token_request(
        ctx,
        method.token,
        values,
        grant_type=facts.params.get("grant_type", "refresh_token"),
        params=params,
        client=ctx.client,
        extra=facts.params,
        drop=facts.drop_params,
        url=facts.url,
        method=facts.method,
    )
    hidden = _secrets(ctx, tuple(reveal(envelope.secrets).values()))
    answer = await _tokens(ctx, method.token.response, request, hidden)
    if not facts.repeats_steps:
        return answer
    return await _follow(ctx, method.after_exchange, answer, values, method.token.response)


async def client_credentials(ctx: Context, fields: Mapping[str, SecretStr]) -> TokenAnswer:
    """An access token for the user's own client (RFC 6749 §4.4). Raises like :func:`refresh`."""
    method = ctx.method
    if not isinstance(method, ClientCredentialsAuth):
        raise ConfigurationError(f"{ctx.manifest.name} has no client credentials grant here.")
    told = reveal(fields)
    client = OAuthClientSettings(
        client_id=told.get("client_id", ""), client_secret=fields.get("client_secret")
    )
    values = Values(ctx, told)
    params: dict[str, str] = {}
    if method.scopes:
        params["scope"] = method.scope_delimiter.join(method.scopes)
    request = token_request(
        ctx,
        method.token,
        values,
        grant_type=method.token.grant_type or "client_credentials",
        params=params,
        client=client,
    )
    hidden = _secrets(ctx, tuple(told.values()))
    return await _tokens(ctx, method.token.response, request, hidden, users_own=True)


async def run_exchange(ctx: Context, fields: Mapping[str, SecretStr]) -> TokenAnswer:
    """An access token by the manifest's login steps. Raises like :func:`refresh`."""
    method = ctx.method
    if not isinstance(method, TokenExchangeAuth):
        raise ConfigurationError(f"{ctx.manifest.name} has no login steps here.")
    values = Values(ctx, reveal(fields))
    hidden = _secrets(ctx, tuple(reveal(fields).values()))
    if method.assertion is not None:
        values.add({"signed_jwt": signed_jwt(ctx, method.assertion, values)})
    *first, last = method.steps
    captured = await _steps(ctx, first, values, method.response, hidden)
    told, reply, how = await _step(ctx, last, values, method.response, hidden)
    captured |= _captures(last, told, reply, how)
    answer = read_answer(told, reply, how)
    return replace(answer, metadata={**_kept(ctx, captured), **answer.metadata})


async def _tokens(
    ctx: Context,
    facts: TokenResponse,
    request: Prepared,
    hidden: tuple[SecretStr, ...],
    *,
    users_own: bool = False,
) -> TokenAnswer:
    reply = await _send(ctx, request)
    how = Reading(
        name=ctx.manifest.name,
        facts=facts,
        statuses=facts.success_statuses,
        error=facts.error,
        now=ctx.now(),
        secrets=hidden,
        users_own=users_own,
        empty_is_fine=bool(facts.from_headers or facts.from_cookies),
    )
    return read_answer(checked_document(reply, how), reply, how)


async def _follow(
    ctx: Context,
    steps: Sequence[ExchangeStep],
    answer: TokenAnswer,
    values: Values,
    facts: TokenResponse,
) -> TokenAnswer:
    """The steps behind the exchange. What they capture as ``access_token``, ``refresh_token`` or
    ``expires_in`` takes the place of the exchange's own; the rest is metadata."""
    if not steps:
        return answer
    values.add({"access_token": answer.access_token.get_secret_value()})
    if answer.refresh_token is not None:
        values.add({"refresh_token": answer.refresh_token.get_secret_value()})
    hidden = (*_secrets(ctx, ()), answer.access_token)
    captured = await _steps(ctx, steps, values, facts, hidden)
    merged: dict[str, Any] = {
        "access_token": answer.access_token.get_secret_value(),
        "refresh_token": answer.refresh_token and answer.refresh_token.get_secret_value(),
        **captured,
    }
    how = Reading(
        name=ctx.manifest.name,
        facts=TokenResponse(
            expires_kind=facts.expires_kind, assumed_lifetime=facts.assumed_lifetime
        ),
        statuses=(200,),
        now=ctx.now(),
        secrets=hidden,
    )
    final = read_answer(merged, Reply(status=200, headers={}, body=b""), how)
    return replace(
        answer,
        access_token=final.access_token,
        refresh_token=final.refresh_token,
        expires_at=final.expires_at if "expires_in" in captured else answer.expires_at,
        metadata={**answer.metadata, **_kept(ctx, captured)},
    )


async def _steps(
    ctx: Context,
    steps: Sequence[ExchangeStep],
    values: Values,
    facts: TokenResponse,
    hidden: tuple[SecretStr, ...],
) -> dict[str, str]:
    captured: dict[str, str] = {}
    for step in steps:
        told, reply, how = await _step(ctx, step, values, facts, hidden)
        captured |= _captures(step, told, reply, how)
        values.add(captured)
    return captured


async def _step(
    ctx: Context,
    step: ExchangeStep,
    values: Values,
    facts: TokenResponse,
    hidden: tuple[SecretStr, ...],
) -> tuple[Any, Reply, Reading]:
    reply = await _send(ctx, step_request(ctx, step, values))
    how = Reading(
        name=ctx.manifest.name,
        facts=facts,
        statuses=step.success_statuses,
        error=step.error,
        now=ctx.now(),
        secrets=hidden,
        users_own=isinstance(ctx.method, TokenExchangeAuth),
        empty_is_fine=not step.captures,
    )
    return checked_document(reply, how), reply, how


def _captures(step: ExchangeStep, told: Any, reply: Reply, how: Reading) -> dict[str, str]:
    found: dict[str, Any] = {name: read_path(told, path) for name, path in step.captures.items()}
    for name, header in step.capture_headers.items():
        found[name] = reply.headers.get(header.lower())
    for name, value in found.items():
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ProviderRejected(f"{how.name} answered without {name}.", status=reply.status)
    return {name: str(value) for name, value in found.items()}


def _kept(ctx: Context, captured: Mapping[str, str]) -> dict[str, str]:
    """Captures that are kept, in the open: those that the manifest declares as variables. Any
    other may be a session or a secret of the login's, and ends with it."""
    named = {v.name for v in ctx.method.variables if v.provided_by == "token_response"}
    return {name: value for name, value in captured.items() if name in named}


async def _send(ctx: Context, request: Prepared) -> Reply:
    return await fetch(
        ctx.http,
        request.method,
        request.url,
        headers=request.headers,
        content=request.content,
        spends=True,
    )


def _secrets(ctx: Context, more: Sequence[str]) -> tuple[SecretStr, ...]:
    """What must not appear in a message about this step."""
    known = [SecretStr(text) for text in more if text]
    if ctx.client is not None and ctx.client.client_secret is not None:
        known.append(ctx.client.client_secret)
    return tuple(known)
