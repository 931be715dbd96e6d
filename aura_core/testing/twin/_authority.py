"""One way to authenticate, as the twin serves it: its endpoints and the tokens it issued."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from aura_core.adapter import OAuthClientSettings
from aura_core.manifest import (
    AuthMethod,
    ClientCredentialsAuth,
    ExchangeStep,
    Manifest,
    OAuth2Auth,
    RefreshTokens,
    Revocation,
    TokenExchangeAuth,
    TokenResponse,
)
from aura_core.testing.twin._accounts import TwinAccount, write_path
from aura_core.testing.twin._answers import refusal, tokens
from aura_core.testing.twin._api import carries
from aura_core.testing.twin._authorization import AuthorizationEndpoint
from aura_core.testing.twin._calls import Asked, matches
from aura_core.testing.twin._grants import Grant, Grants, Issued, Refused
from aura_core.testing.twin._tokens import issue_tokens, sent_params

__all__ = ["Authority", "Endpoint"]

Endpoint = tuple[str, Callable[[], Response]]
"""What a request was taken for, and what answers it. Answering may raise :class:`Refused`."""

_LIFETIME = 3600


class Authority:
    """The twin's side of one of the manifest's methods."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        method: AuthMethod,
        accounts: Sequence[TwinAccount],
        client: OAuthClientSettings | None,
        redirect_uris: Collection[str] | None,
        lifetime: int | None,
        now: Callable[[], datetime],
    ) -> None:
        self._manifest = manifest
        self._method = method
        self._accounts = accounts
        self._client = client
        self._now = now
        oauth = method if isinstance(method, OAuth2Auth) else None
        self._facts = _response(method)
        self._grants = Grants(
            facts=oauth.refresh if oauth else RefreshTokens(mode="none"),
            lifetime=lifetime or _life(self._facts, oauth),
            now=now,
        )
        self._authorization = (
            None
            if oauth is None
            else AuthorizationEndpoint(
                manifest=manifest,
                method=oauth,
                grants=self._grants,
                accounts=accounts,
                client=client,
                redirect_uris=redirect_uris,
            )
        )

    def refused(self, error: Refused) -> Response:
        """A refusal as this method's endpoints word it."""
        return refusal(error, self._facts)

    def find(self, asked: Asked) -> Endpoint | None:
        """Which of this method's endpoints the request is for."""
        method = self._method
        if self._authorization is not None and isinstance(method, OAuth2Auth):
            tokens_here = any(
                matches(url, asked) for url in (method.token.url, method.refresh.url) if url
            )
            # Where both are one URL, a browser gets the page, and posts the page's ticket.
            browser = asked.method == "GET" or "ticket" in asked.params
            if matches(method.authorization.url, asked) and (browser or not tokens_here):
                return "authorization", partial(self._authorization.answer, asked)
            if tokens_here:
                return "token", partial(self._code_or_refresh, asked, method)
        if isinstance(method, ClientCredentialsAuth) and matches(method.token.url, asked):
            return "token", partial(self._own_client, asked, method)
        if method.revocation is not None and matches(method.revocation.url, asked):
            return "revocation", partial(self._revoke, asked, method.revocation)
        steps: tuple[ExchangeStep, ...] = _steps(method)
        for position, step in enumerate(steps):
            if matches(step.url, asked) and step.method == asked.method:
                last = position == len(steps) - 1
                return "step", partial(self._step, asked, step, first=position == 0, last=last)
        return None

    def holder(self, asked: Asked) -> TwinAccount | None:
        """Whose live credential the request carries, in the declared place."""
        for token, grant in self._grants.live():
            if carries(asked, self._method, {**self._typed(grant.account), "access_token": token}):
                return grant.account
        for account in self._accounts:
            if carries(asked, self._method, self._typed(account)):
                return account
        return None

    def typed(self) -> list[str]:
        """What a person would type in, for the twin's front page."""
        return [
            f"{entry.label}: {account.credential(entry.name)}"
            for account in self._accounts
            for entry in getattr(self._method, "fields", ())
        ]

    def _typed(self, account: TwinAccount) -> dict[str, str]:
        fields = getattr(self._method, "fields", ())
        typed = {entry.name: account.credential(entry.name) for entry in fields}
        if self._client is None or not isinstance(self._method, OAuth2Auth):
            return typed
        secret = self._client.client_secret
        return {
            "client_id": self._client.client_id,
            "client_secret": secret.get_secret_value() if secret else "",
        }

    def _code_or_refresh(self, asked: Asked, method: OAuth2Auth) -> Response:
        return self._tokens(issue_tokens(asked, method, self._grants, self._client))

    def _own_client(self, asked: Asked, method: ClientCredentialsAuth) -> Response:
        sent = {**asked.params, **sent_params(asked, method.token)}
        header = asked.headers.get("authorization", "")
        for account in self._accounts:
            pair = (account.credential("client_id"), account.credential("client_secret"))
            if (sent.get("client_id"), sent.get("client_secret")) == pair or (
                header and _basic(header) == ":".join(pair)
            ):
                grant = Grant(account=account, scopes=method.scopes, offline=False)
                return self._tokens(self._grants.issue(grant))
        raise Refused("invalid_client", "The client is not known here.", status=401)

    def _step(self, asked: Asked, step: ExchangeStep, *, first: bool, last: bool) -> Response:
        """One step of a login sequence: the first checks who it is, the last one of a token
        exchange answers with the token."""
        exchange = isinstance(self._method, TokenExchangeAuth)
        account = self._who(asked) if exchange and first else self._accounts[0]
        grant = Grant(account=account, scopes=(), offline=False)
        if exchange and last:
            return self._tokens(self._grants.issue(grant))
        document: Any = {}
        for name, path in step.captures.items():
            # A captured token is what the calls behind it must bring.
            value = account.fact(name, self._manifest)
            if name == "access_token":
                value = self._grants.issue(grant).access_token
            document = write_path(document, path, value)
        headers = {header: f"twin-{name}" for name, header in step.capture_headers.items()}
        return JSONResponse(document, status_code=step.success_statuses[0], headers=headers)

    def _who(self, asked: Asked) -> TwinAccount:
        """Whose typed-in secrets are in the request."""
        header = _basic(asked.headers.get("authorization", ""))
        text = " ".join(
            [*asked.params.values(), asked.body.decode("utf-8", "replace"), header,
             *asked.headers.values()]
        )  # fmt: skip
        wanted = [entry.name for entry in getattr(self._method, "fields", ()) if entry.secret]
        for account in self._accounts:
            if all(account.credential(name) in text for name in wanted):
                return account
        raise Refused("invalid_client", "The credentials are wrong.", status=401)

    def _tokens(self, issued: Issued) -> Response:
        return tokens(issued, self._facts, self._manifest, self._now())

    def _revoke(self, asked: Asked, facts: Revocation) -> Response:
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        token = asked.params.get(facts.token_param) or bearer
        if not self._grants.revoke(token, cascades=facts.cascades):
            # RFC 7009 §2.2 answers 200; the twin is stricter, as Google is, to show the receipt.
            body = {"error": "invalid_token", "error_description": "Token expired or revoked"}
            return JSONResponse(body, status_code=400)
        ok = {} if facts.error is None else write_path({}, facts.error.path, facts.error.ok)
        return JSONResponse(ok, status_code=facts.success_statuses[0])


def _response(method: AuthMethod) -> TokenResponse:
    if isinstance(method, TokenExchangeAuth):
        return method.response
    if isinstance(method, OAuth2Auth | ClientCredentialsAuth):
        return method.token.response
    return TokenResponse()


def _life(facts: TokenResponse, method: OAuth2Auth | None) -> int | None:
    if facts.assumed_lifetime is not None:
        return facts.assumed_lifetime
    endless = method is not None and method.refresh.mode == "none"
    return None if endless else _LIFETIME


def _steps(method: AuthMethod) -> tuple[ExchangeStep, ...]:
    if isinstance(method, TokenExchangeAuth):
        return method.steps
    return method.after_exchange if isinstance(method, OAuth2Auth) else ()


def _basic(header: str) -> str:
    """The pair of an HTTP Basic header, or nothing."""
    if not header.startswith("Basic "):
        return ""
    try:
        return base64.b64decode(header[6:]).decode()
    except ValueError:
        return ""
