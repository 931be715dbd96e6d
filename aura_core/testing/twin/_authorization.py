"""The authorization endpoint (RFC 6749 §4.1.1, RFC 7636, RFC 9207): a page, then a redirect."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from starlette.responses import RedirectResponse, Response

from aura_core.adapter import OAuthClientSettings
from aura_core.manifest import Manifest, OAuth2Auth
from aura_core.testing.twin._accounts import TwinAccount
from aura_core.testing.twin._calls import Asked, standard
from aura_core.testing.twin._grants import Grant, Grants
from aura_core.testing.twin._pages import consent_page, error_page

__all__ = ["AuthorizationEndpoint"]


@dataclass(frozen=True, kw_only=True)
class _Pending:
    redirect_uri: str
    """As it was sent, and is to be sent with the code again."""
    back: str
    """Where the browser goes."""
    state: str | None
    scopes: tuple[str, ...]
    challenge: str | None
    challenge_method: str
    offline: bool


class AuthorizationEndpoint:
    """Keeps what is waiting for somebody's decision; each ticket is good once."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        method: OAuth2Auth,
        grants: Grants,
        accounts: Sequence[TwinAccount],
        client: OAuthClientSettings | None,
        redirect_uris: Collection[str] | None,
    ) -> None:
        self._manifest = manifest
        self._method = method
        self._grants = grants
        self._accounts = {account.id: account for account in accounts}
        self._client = client
        self._redirect_uris = redirect_uris
        self._pending: dict[str, _Pending] = {}

    def answer(self, asked: Asked) -> Response:
        return self._decide(asked) if asked.method == "POST" else self._ask(asked)

    def _ask(self, asked: Asked) -> Response:
        facts = self._method.authorization
        sent = standard(asked.query, facts.renames)
        redirect_uri = sent.get("redirect_uri", "")
        # A wrong client or redirect URI is told to the user, never redirected (§4.1.2.1).
        if self._client is not None and sent.get("client_id") != self._client.client_id:
            return error_page("Unknown client", "This client is not registered here.")
        back = self._registered(redirect_uri)
        if back is None:
            return error_page("Wrong redirect URI", "It is not one of the client's, exactly.")
        state = sent.get("state")
        wrong = self._wrong(sent)
        if wrong is not None:
            return self._back(back, {"error": wrong, "state": state})
        scopes = self._scopes(sent)
        ticket = secrets.token_urlsafe(16)
        self._pending[ticket] = _Pending(
            redirect_uri=redirect_uri,
            back=back,
            state=state,
            scopes=scopes,
            challenge=sent.get("code_challenge"),
            challenge_method=sent.get("code_challenge_method", "plain"),
            offline=self._offline(sent, scopes),
        )
        return consent_page(
            provider=self._manifest.name,
            client_id=sent.get("client_id", ""),
            ticket=ticket,
            accounts=self._accounts.values(),
            scopes=scopes,
        )

    def _decide(self, asked: Asked) -> Response:
        told = parse_qs(asked.body.decode("utf-8", "replace"))
        pending = self._pending.pop(told.get("ticket", [""])[0], None)
        if pending is None:
            return error_page("Expired", "This page was used before: start again.")
        if told.get("decision") != ["allow"]:
            return self._back(pending.back, {"error": "access_denied", "state": pending.state})
        account = self._accounts.get(told.get("account", [""])[0])
        if account is None:
            return error_page("No account", "Choose an account.")
        ticked = tuple(scope for scope in pending.scopes if scope in told.get("scope", ()))
        code = self._grants.code(
            Grant(account=account, scopes=ticked, offline=pending.offline),
            redirect_uri=pending.redirect_uri,
            challenge=pending.challenge,
            challenge_method=pending.challenge_method,
        )
        facts = self._method.authorization
        more = {name: account.fact(name, self._manifest) for name in facts.callback_metadata}
        answer = {facts.code_param: code, "state": pending.state, **more}
        return self._back(pending.back, answer)

    def _registered(self, redirect_uri: str) -> str | None:
        """Where the browser goes back to; ``None`` for what is not registered."""
        known = self._redirect_uris
        if "redirect_uri" in self._method.authorization.params:
            # The provider has a name of its own for the one URI that the app registered.
            return next(iter(known), None) if known and redirect_uri else None
        if known is not None:
            return redirect_uri if redirect_uri in known else None
        parts = urlsplit(redirect_uri)
        fits = parts.scheme in ("https", "http") and parts.netloc and not parts.fragment
        return redirect_uri if fits else None

    def _wrong(self, sent: Mapping[str, str]) -> str | None:
        facts = self._method.authorization
        expected = facts.params.get("response_type", "code")
        named = facts.renames.get("response_type", "response_type")
        if named and sent.get("response_type") != expected:
            return "unsupported_response_type"
        challenge = sent.get("code_challenge")
        if facts.pkce == "required" and not challenge:
            return "invalid_request"
        if facts.pkce == "omit" and challenge:
            return "invalid_request"
        if challenge and sent.get("code_challenge_method", "plain") != facts.pkce_method:
            return "invalid_request"
        return None

    def _scopes(self, sent: Mapping[str, str]) -> tuple[str, ...]:
        facts = self._method.authorization
        asked = [sent.get(facts.scope_param, ""), sent.get(facts.user_scope_param or "", "")]
        split = re.compile(rf"\s+|{re.escape(facts.scope_delimiter)}")
        return tuple(dict.fromkeys(part for text in asked for part in split.split(text) if part))

    def _offline(self, sent: Mapping[str, str], scopes: Collection[str]) -> bool:
        """Whether a refresh token is due: as Google and others, only to those who ask rightly."""
        facts = self._method.authorization
        if facts.offline_scope is not None:
            return facts.offline_scope in scopes
        wanted = facts.params.get("access_type")
        return wanted is None or sent.get("access_type") == wanted

    def _back(self, redirect_uri: str, answer: Mapping[str, str | None]) -> Response:
        facts = self._method.authorization
        told = {name: value for name, value in answer.items() if value is not None}
        if facts.issuer is not None:
            told["iss"] = facts.issuer
        parts = urlsplit(redirect_uri)
        query = "&".join(filter(None, (parts.query, urlencode(told))))
        return RedirectResponse(urlunsplit(parts._replace(query=query)), status_code=303)
