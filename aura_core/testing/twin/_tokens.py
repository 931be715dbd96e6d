"""The token endpoint: client authentication, grants, and refusals as the RFC words them."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from aura_core.adapter import OAuthClientSettings
from aura_core.manifest import OAuth2Auth, TokenEndpoint
from aura_core.testing.twin._calls import Asked, standard
from aura_core.testing.twin._grants import Code, Grants, Issued, Refused

__all__ = ["authenticate_client", "issue_tokens", "sent_params"]

_KEYS: dict[str, type[RSAKey | ECKey | OKPKey]] = {
    "RS256": RSAKey, "PS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey
}  # fmt: skip


def sent_params(asked: Asked, facts: TokenEndpoint, *, get: bool = False) -> dict[str, str]:
    """The parameters from the place that the manifest declares, and from no other."""
    if asked.method == "GET" or get or facts.body == "query":
        return standard(asked.query, facts.renames)
    return standard(asked.document if facts.body == "json" else asked.form, facts.renames)


def issue_tokens(
    asked: Asked, method: OAuth2Auth, grants: Grants, client: OAuthClientSettings | None
) -> Issued:
    """Answer one token request. Raises :class:`Refused`."""
    facts = method.token
    sent = sent_params(asked, facts)
    renewing = method.refresh.token_param in sent and "code" not in sent
    public = renewing and {"client_id", "client_secret"} <= set(method.refresh.drop_params)
    if not public:
        authenticate_client(asked, facts, sent, client)
    if renewing:
        token = sent[method.refresh.token_param]
        return grants.trade(token) if method.refresh.mode == "exchange" else grants.renew(token)
    expected = facts.params.get("grant_type", facts.grant_type or "authorization_code")
    if facts.renames.get("grant_type", "x") and sent.get("grant_type") != expected:
        raise Refused("unsupported_grant_type")
    code = grants.redeem(sent.get("code", ""))
    if facts.renames.get("redirect_uri", "x") and sent.get("redirect_uri") != code.redirect_uri:
        raise Refused("invalid_grant", "The redirect URI is not the one of the authorization.")
    _check_verifier(code, sent.get("code_verifier"))
    return grants.issue(code.grant)


def _check_verifier(code: Code, verifier: str | None) -> None:
    """RFC 7636 §4.6: a challenge needs its verifier, and a verifier its challenge."""
    if code.challenge is None:
        if verifier:
            raise Refused("invalid_grant", "No code challenge was sent.")
        return
    if not verifier:
        raise Refused("invalid_grant", "The code verifier is missing.")
    plain = code.challenge_method == "plain"
    computed = verifier if plain else create_s256_code_challenge(verifier)
    if not hmac.compare_digest(computed, code.challenge):
        raise Refused("invalid_grant", "The code verifier does not fit.")


def authenticate_client(
    asked: Asked,
    facts: TokenEndpoint,
    sent: Mapping[str, str],
    client: OAuthClientSettings | None,
) -> None:
    """RFC 6749 §2.3, by a declared way only; without a registered client any one will do."""
    ways = {facts.auth, *facts.also_accepts}
    header = asked.headers.get("authorization", "")
    if "client_assertion" in sent and "private_key_jwt" in ways:
        _check_assertion(sent["client_assertion"], facts, client)
        return
    if header.startswith("Basic "):
        if "client_secret_basic" not in ways:
            raise Refused("invalid_client", "HTTP Basic is not for this endpoint.", status=401)
        pair = base64.b64decode(header[6:]).decode("utf-8", "replace")
        identity, _, secret = pair.partition(":")
    else:
        identity, secret = sent.get("client_id", ""), sent.get("client_secret", "")
        if secret and "client_secret_post" not in ways:
            raise Refused("invalid_client", "The secret does not belong in the body.", status=401)
    if not secret and "none" not in ways:
        raise Refused("invalid_client", "The client did not authenticate.", status=401)
    if client is None:
        return
    known = "" if client.client_secret is None else client.client_secret.get_secret_value()
    right = hmac.compare_digest(identity.encode(), client.client_id.encode())
    if not (right and (not secret or hmac.compare_digest(secret.encode(), known.encode()))):
        raise Refused("invalid_client", "The client's id or secret is wrong.", status=401)


def _check_assertion(
    assertion: str, facts: TokenEndpoint, client: OAuthClientSettings | None
) -> None:
    if client is None or client.client_secret is None:
        return
    algorithm = facts.assertion_algorithm or "RS256"
    try:
        key = _KEYS[algorithm].import_key(client.client_secret.get_secret_value())
        claims = jwt.decode(assertion, key, algorithms=[algorithm]).claims
    except JoseError:
        raise Refused("invalid_client", "The assertion does not verify.", status=401) from None
    if claims.get("sub") != client.client_id or claims.get("iss") != client.client_id:
        raise Refused("invalid_client", "The assertion is another client's.", status=401)
