"""A provider that plays by RFC 6749, and misbehaves on demand.

It is a real ASGI application; the control plane reaches it through its real HTTP client, whose
transport leads here instead of to the network.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Fault = Callable[[httpx.Request], Awaitable[httpx.Response | None]]


@dataclass
class Grant:
    """What one user allowed."""

    account: str
    challenge: str | None = None
    redirect_uri: str = ""


@dataclass
class Provider:
    """Issues tokens; ``rotates`` and ``grace`` say what becomes of a used refresh token."""

    lifetime: int | None = 3600
    rotates: bool = True
    grace: bool = True
    gives_refresh_token: bool = True
    """Whether the code exchange answers one."""
    keys: dict[str, str] = field(default_factory=lambda: {"key-of-ada": "ada"})
    calls: list[str] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    """Each is asked once, before the next request is answered."""
    revocable: bool = True
    answers_forms: bool = False
    """Whether tokens come as a form instead of as JSON."""
    authenticated: list[str] = field(default_factory=list)
    """How the client authenticated, each time."""

    def __post_init__(self) -> None:
        self._codes: dict[str, Grant] = {}
        self._access: dict[str, str] = {}
        self._refresh: dict[str, str] = {}
        self._used: dict[str, str] = {}
        self._number = 0
        self._app = Starlette(
            routes=[
                Route("/token", self._token, methods=["POST"]),
                Route("/revoke", self._revoke, methods=["POST"]),
                Route("/me", self._me),
            ]
        )

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return self.calls.count(path)

    def client(self) -> httpx.AsyncClient:
        """The control plane's way here."""
        return httpx.AsyncClient(transport=_Wire(self), timeout=5)

    def consent(self, url: str, account: str = "ada@example.org") -> dict[str, str]:
        """The user signs in and allows: the parameters of the redirect back."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["response_type"] == "code"
        code = self._next("code")
        self._codes[code] = Grant(
            account=account,
            challenge=asked.get("code_challenge"),
            redirect_uri=asked["redirect_uri"],
        )
        return {"code": code, "state": asked["state"], "iss": "https://auth.acme.example"}

    def forget_grants(self) -> None:
        """The user takes the permission back at the provider."""
        self._access.clear()
        self._refresh.clear()
        self._used.clear()

    def knows(self, token: str) -> bool:
        """Whether the token is alive."""
        return token in self._access or token in self._refresh

    @property
    def alive(self) -> int:
        """How many tokens are."""
        return len(self._access) + len(self._refresh)

    def _next(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}-{'x' * 24}"

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        given = (form.get("client_id"), form.get("client_secret"))
        header = request.headers.get("authorization", "")
        self.authenticated.append("basic" if header else "post")
        if header:
            name, _, secret = (
                base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
            )
            given = (name, secret)
        if given != ("aura", "the-client-secret"):
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        if form["grant_type"] == "authorization_code":
            return self._exchange(form)
        return self._renew(form)

    def _exchange(self, form: dict[str, str]) -> Response:
        grant = self._codes.pop(form["code"], None)
        if grant is None or grant.redirect_uri != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if grant.challenge != base64.urlsafe_b64encode(verifier).rstrip(b"=").decode():
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        return self._issue(grant.account, refresh=self.gives_refresh_token)

    def _renew(self, form: dict[str, str]) -> Response:
        token = form["refresh_token"]
        account = self._refresh.get(token)
        if account is None and self.grace:
            account = self._used.get(token)
        if account is None:
            if token in self._used:  # presented twice: the whole family ends (RFC 9700 §4.14.2)
                self.forget_grants()
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        if self.rotates:
            self._used[token] = account
            self._refresh.pop(token, None)
        return self._issue(account, refresh=self.rotates)

    def _issue(self, account: str, *, refresh: bool) -> Response:
        answer: dict[str, object] = {"access_token": self._next("access"), "token_type": "Bearer"}
        self._access[str(answer["access_token"])] = account
        if refresh:
            answer["refresh_token"] = self._next("refresh")
            self._refresh[str(answer["refresh_token"])] = account
        if self.lifetime is not None:
            answer["expires_in"] = self.lifetime
        if self.answers_forms:
            return Response(urlencode(answer), media_type="application/x-www-form-urlencoded")
        return JSONResponse(answer)

    async def _revoke(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        if not self.revocable:
            return Response(status_code=503)
        self._access.pop(form["token"], None)
        self._refresh.pop(form["token"], None)
        return Response(status_code=200)

    async def _me(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        account = self._access.get(token) or self.keys.get(token)
        if account is None:
            return JSONResponse({"error": "invalid_token"}, status_code=401)
        return JSONResponse({"id": account, "email": account})


class _Wire(httpx.AsyncBaseTransport):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._inner = httpx.ASGITransport(provider._app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._provider.calls.append(request.url.path)
        if self._provider.faults:
            answer = await self._provider.faults.popleft()(request)
            if answer is not None:
                return answer
        response = await self._inner.handle_async_request(request)
        return httpx.Response(
            response.status_code, headers=response.headers, content=await response.aread()
        )


async def pass_on(_request: httpx.Request) -> httpx.Response | None:
    """No fault."""
    return None


async def unreachable(request: httpx.Request) -> httpx.Response | None:
    """The request never got there."""
    raise httpx.ConnectError("refused", request=request)


def answers(status: int, **document: object) -> Fault:
    """Answers like this instead."""

    async def fault(_request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(status, json=document)

    return fault


def answer_lost(provider: Provider) -> Fault:
    """The provider acts on the request, and its answer never arrives."""

    async def fault(request: httpx.Request) -> httpx.Response | None:
        response = await httpx.ASGITransport(provider._app).handle_async_request(request)
        await response.aread()
        raise httpx.ReadTimeout("no answer", request=request)

    return fault


@dataclass
class Gate:
    """Holds a request back until it is opened."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def fault(self, _request: httpx.Request) -> httpx.Response | None:
        self.reached.set()
        await self.opened.wait()
        return None
