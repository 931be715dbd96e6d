"""The authorization request (RFC 6749 §4.1.1, RFC 7636 §4) and its answer (RFC 9207)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from aura_core.adapter._values import Context
from aura_core.errors import ConfigurationError, InvalidInput
from aura_core.manifest import AuthMethod, Authorization, OAuth2Auth
from aura_core.oauth._templates import Values, oauth2

__all__ = ["authorization_url", "check_issuer", "new_verifier", "uses_pkce"]


def uses_pkce(method: AuthMethod) -> bool:
    """Whether a code verifier is sent: always, but where the provider breaks on it."""
    return isinstance(method, OAuth2Auth) and method.authorization.pkce != "omit"


def new_verifier() -> str:
    """A fresh code verifier: 64 characters with 384 random bits (RFC 7636 §4.1)."""
    return secrets.token_urlsafe(48)


def authorization_url(
    ctx: Context,
    *,
    redirect_uri: str,
    state: str,
    verifier: str | None,
    scopes: Sequence[str] | None = None,
) -> str:
    """Where to send the user's browser. ``scopes``: ``None`` asks for the manifest's.

    Raises :class:`ConfigurationError` without the operator's client or with a verifier where one
    is needed and missing, and :class:`InvalidInput` for a variable without a value.
    """
    method = oauth2(ctx)
    facts = method.authorization
    if ctx.client is None:
        raise ConfigurationError(
            f"{ctx.manifest.name} has no OAuth client yet.",
            hint=f"Register one and set {method.client.id_env}.",
        )
    if facts.code_by_webhook:
        raise ConfigurationError(
            f"{ctx.manifest.name} sends the authorization code to a webhook: "
            "its integration needs an adapter that receives it."
        )
    if uses_pkce(method) and verifier is None:
        raise ConfigurationError(f"{ctx.manifest.name} is authorized with PKCE: a verifier is due.")
    values = Values(ctx, {"redirect_uri": redirect_uri})
    params = _parameters(facts, method.scopes if scopes is None else scopes)
    if verifier is not None and uses_pkce(method):
        params |= _challenge(facts, verifier)
    # What the manifest fixes wins over the standard value: eBay's redirect_uri is an alias.
    params |= values.texts(facts.params)
    fixed = {name: params.pop(name) for name in ("redirect_uri", "state") if name in params}
    url = prepare_grant_uri(
        ctx.manifest.locate(values.text(facts.url)),
        ctx.client.client_id,
        params.pop("response_type", "code"),
        redirect_uri=fixed.get("redirect_uri", redirect_uri),
        state=state,
        **params,
    )
    return _with_fragment(_renamed(url, facts.renames), facts.fragment)


def _parameters(facts: Authorization, scopes: Sequence[str]) -> dict[str, str]:
    offline = (facts.offline_scope,) if facts.offline_scope else ()
    asked = tuple(dict.fromkeys((*facts.default_scopes, *scopes, *offline)))
    # A "+" between scopes is what a space becomes in a query: sent as such it would be escaped.
    delimiter = " " if facts.scope_delimiter == "+" else facts.scope_delimiter
    params: dict[str, str] = {}
    if asked:
        params[facts.scope_param] = delimiter.join(asked)
    if facts.user_scope_param and facts.user_scopes:
        params[facts.user_scope_param] = delimiter.join(facts.user_scopes)
    return params


def _challenge(facts: Authorization, verifier: str) -> dict[str, str]:
    plain = facts.pkce_method == "plain"
    challenge = verifier if plain else create_s256_code_challenge(verifier)
    return {"code_challenge": challenge, "code_challenge_method": facts.pkce_method}


def _renamed(url: str, renames: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    pairs = [
        (renames.get(name, name), value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if renames.get(name, name)
    ]
    return urlunsplit(parts._replace(query=urlencode(pairs)))


def _with_fragment(url: str, fragment: str | None) -> str:
    """Put the fragment on; one that is a route (``/oauth/authorize``) carries the query itself."""
    if fragment is None:
        return url
    parts = urlsplit(url)
    if fragment.startswith(("/", "!")):
        return urlunsplit(parts._replace(query="", fragment=f"{fragment}?{parts.query}"))
    return urlunsplit(parts._replace(fragment=fragment))


def check_issuer(ctx: Context, callback_params: Mapping[str, str]) -> None:
    """Refuse a callback from another authorization server than the one asked (RFC 9207 §2.4).

    Raises :class:`InvalidInput`: nothing may be sent anywhere for such a callback.
    """
    facts = oauth2(ctx).authorization
    if facts.issuer is None:
        return
    issuer = callback_params.get("iss")
    if issuer is None and not facts.iss_required:
        return
    if issuer is None or issuer != Values(ctx).text(facts.issuer):
        raise InvalidInput(
            f"The answer does not come from {ctx.manifest.name}.",
            hint="Start the connection again; if this repeats, somebody interferes.",
        )
