"""Building requests to token endpoints: Authlib writes the RFC's, the manifest bends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from authlib.oauth2.rfc7523 import private_key_jwt_sign
from authlib.oauth2.rfc7523.assertion import sign_jwt_bearer_assertion
from joserfc.jwk import ECKey, OKPKey, RSAKey

from aura_core.adapter._values import Context, OAuthClientSettings
from aura_core.errors import ConfigurationError
from aura_core.manifest import ExchangeStep, JwtAssertion, TokenEndpoint
from aura_core.oauth._templates import Values

__all__ = ["Prepared", "authenticate", "encode", "signed_jwt", "step_request", "token_request"]

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFETIME = 300
_KEYS: dict[str, type[RSAKey | ECKey | OKPKey]] = {
    "RS256": RSAKey,
    "PS256": RSAKey,
    "ES256": ECKey,
    "EdDSA": OKPKey,
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request ready to send. Its repr shows the method only: the rest is secret."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)


def token_request(
    ctx: Context,
    facts: TokenEndpoint,
    values: Values,
    *,
    grant_type: str,
    params: Mapping[str, str],
    client: OAuthClientSettings | None,
    extra: Mapping[str, str] | None = None,
    drop: tuple[str, ...] = (),
    url: str | None = None,
    method: str | None = None,
) -> Prepared:
    """A request to the token endpoint. ``extra`` and ``drop`` change parameters by their standard
    names; the manifest's renames come last, on everything."""
    if facts.mtls:
        raise ConfigurationError(
            f"{ctx.manifest.name} wants a TLS client certificate, which Aura cannot present."
        )
    target = values.text(url or facts.url)
    body = prepare_token_request(grant_type, **params)
    headers, body = authenticate(ctx, facts, client, target, body)
    sent = dict(parse_qsl(body, keep_blank_values=True))
    sent |= values.texts(facts.params) | values.texts(extra or {})
    named = {
        facts.renames.get(name, name): value for name, value in sent.items() if name not in drop
    }
    named.pop("", None)
    verb = method or facts.method
    return encode(
        verb,
        ctx.manifest.locate(target),
        "query" if verb == "GET" else facts.body,
        named,
        {"Accept": facts.accept, **headers, **values.texts(facts.headers)},
    )


def authenticate(
    ctx: Context,
    facts: TokenEndpoint,
    client: OAuthClientSettings | None,
    url: str,
    body: str,
) -> tuple[dict[str, str], str]:
    """Add the client's authentication (RFC 6749 §2.3) to a form-encoded body."""
    if client is None:
        raise ConfigurationError(f"{ctx.manifest.name} has no OAuth client.")
    way = facts.auth
    if way == "custom":
        raise ConfigurationError(
            f"{ctx.manifest.name} authenticates clients in a way of its own: "
            "its integration needs an adapter that does so."
        )
    secret = client.client_secret.get_secret_value() if client.client_secret else None
    if way != "none" and secret is None:
        raise ConfigurationError(f"{ctx.manifest.name} needs the OAuth client's secret.")
    if way == "private_key_jwt":
        assertion = _client_assertion(ctx, facts, client.client_id, secret or "", url)
        pairs = {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}
        return {}, f"{body}&{urlencode({**pairs, 'client_id': client.client_id})}"
    # A public client says who it is in the body, wherever the parameters end up (RFC 6749 §3.2.1).
    headers: dict[str, str] = {}
    auth = ClientAuth(client.client_id, secret, auth_method=way)
    _, headers, body = auth.prepare("POST", url, headers, body)
    return headers, body


def _client_assertion(
    ctx: Context, facts: TokenEndpoint, client_id: str, key: str, url: str
) -> str:
    issued = int(ctx.now().timestamp())
    try:
        signed = private_key_jwt_sign(
            _KEYS[facts.assertion_algorithm or ""].import_key(key),
            client_id,
            facts.assertion_audience or url,
            alg=facts.assertion_algorithm,
            issued_at=issued,
            expires_at=issued + _ASSERTION_LIFETIME,
        )
    except Exception:  # noqa: BLE001 - the library's errors quote the key
        raise ConfigurationError(
            f"The OAuth client's secret for {ctx.manifest.name} must be a private key "
            f"for {facts.assertion_algorithm} (PEM)."
        ) from None
    return str(signed)


def signed_jwt(ctx: Context, facts: JwtAssertion, values: Values) -> str:
    """The assertion of a JWT bearer grant (RFC 7523 §2.1). Raises :class:`ConfigurationError`."""
    issued = int(ctx.now().timestamp())
    key, issuer, audience = map(values.text, (facts.key, facts.issuer, facts.audience))
    subject = values.text(facts.subject) if facts.subject else None
    header: dict[str, str] = {"alg": facts.algorithm}
    if facts.key_id:
        header["kid"] = values.text(facts.key_id)
    claims = values.texts(facts.claims)
    try:
        signed = sign_jwt_bearer_assertion(
            _KEYS[facts.algorithm].import_key(key),
            issuer,
            audience,
            subject=subject,
            issued_at=issued,
            expires_at=issued + facts.lifetime,
            claims=claims,
            header=header,
        )
    except Exception:  # noqa: BLE001 - the library's errors quote the key
        raise ConfigurationError(
            f"{ctx.manifest.name} needs a private key for {facts.algorithm} (PEM)."
        ) from None
    return str(signed)


def step_request(ctx: Context, step: ExchangeStep, values: Values) -> Prepared:
    """One call of a login sequence."""
    headers = {"Accept": "application/json", **values.texts(step.headers)}
    if step.basic is not None:
        auth = ClientAuth(*map(values.text, step.basic), auth_method="client_secret_basic")
        _, headers, _ = auth.prepare(step.method, step.url, headers, "")
    url = ctx.manifest.locate(values.text(step.url))
    if step.xml is not None:
        headers.setdefault("Content-Type", "application/xml")
        return Prepared(
            method=step.method, url=url, headers=headers, content=values.xml(step.xml).encode()
        )
    params: Any = values.texts(step.params)
    if step.json_body is not None:
        params = values.document(step.json_body)
    body = "query" if step.body == "none" or step.method == "GET" else step.body
    return encode(step.method, url, body, params, headers)


def encode(
    method: str, url: str, body: str, params: Mapping[str, Any], headers: Mapping[str, str]
) -> Prepared:
    """Put parameters where they belong: ``query``, ``form``, ``json`` or ``none``."""
    sent = dict(headers)
    if body in ("query", "none"):
        if params and body == "query":
            parts = urlsplit(url)
            joined = "&".join(filter(None, (parts.query, urlencode(params))))
            url = urlunsplit(parts._replace(query=joined))
        return Prepared(method=method, url=url, headers=sent)
    if body == "json":
        sent.setdefault("Content-Type", "application/json")
        content = json.dumps(params).encode()
    else:
        sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        content = urlencode(params).encode()
    return Prepared(method=method, url=url, headers=sent, content=content)
