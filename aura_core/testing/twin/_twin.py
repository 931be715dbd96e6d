"""The twin itself: which endpoint a request is for, and what it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aura_core.adapter import OAuthClientSettings
from aura_core.manifest import Call, Manifest, OAuth2Auth
from aura_core.testing.twin._accounts import TwinAccount
from aura_core.testing.twin._api import Example, example_answer
from aura_core.testing.twin._authority import Authority, Endpoint
from aura_core.testing.twin._calls import Asked, matches, read_request, without_segment
from aura_core.testing.twin._grants import Refused
from aura_core.testing.twin._journal import Journal
from aura_core.testing.twin._pages import front_page

__all__ = ["Fault", "Twin"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong at the next call of an endpoint.

    ``status`` and ``body`` are answered instead; with ``after`` the endpoint does its work first,
    as when an answer is lost on its way. Without a ``status`` it is only slow, by ``seconds``.
    """

    endpoint: str
    status: int | None = 503
    body: Any = None
    after: bool = False
    seconds: float = 0.0


@dataclass(kw_only=True)
class Twin:
    """One provider's stand-in. Tests read its ``journal`` and put ``faults`` in its way."""

    manifest: Manifest
    origin: str
    client: OAuthClientSettings | None
    accounts: Sequence[TwinAccount]
    examples: Sequence[Example]
    now: Callable[[], datetime]
    lifetime: int | None = None
    redirect_uris: Collection[str] | None = None
    journal: Journal = field(default_factory=Journal)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._authorities = [
            Authority(
                manifest=self.manifest,
                method=method,
                accounts=self.accounts,
                client=self.client,
                redirect_uris=self.redirect_uris,
                lifetime=self.lifetime,
                now=self.now,
            )
            for method in self.manifest.auth
        ]

    async def handle(self, request: Request) -> Response:
        """Answer one request and note it down."""
        asked = await read_request(request)
        authority, (endpoint, answer) = self._find(asked)
        fault = self._fault(endpoint)
        if fault is not None and fault.seconds:
            await asyncio.sleep(fault.seconds)
        response, error = _answered(authority, answer, fault)
        self.journal.add(
            endpoint=endpoint,
            method=asked.method,
            host=asked.host,
            path=asked.path,
            status=response.status_code,
            params=asked.params,
            authorization=asked.headers.get("authorization"),
            error=error,
        )
        return response

    def front(self) -> Response:
        """The page at the root: what the twin accepts."""
        typed = [line for authority in self._authorities for line in authority.typed()]
        return front_page(
            provider=self.manifest.name,
            origin=self.origin,
            lines=[f"AURA_TWINS={self.manifest.id}={self.origin}", *typed],
        )

    def _find(self, asked: Asked) -> tuple[Authority, Endpoint]:
        for authority in self._authorities:
            endpoint = authority.find(asked)
            if endpoint is not None:
                return authority, endpoint
        plain = self._without_credential(asked)
        fitting = [
            call
            for call in self._calls()
            if matches(call.url, plain) and call.method == asked.method
        ]
        if fitting:
            return self._authorities[0], ("call", partial(self._call, asked, fitting))
        return self._authorities[0], ("api", partial(self._api, asked))

    def _without_credential(self, asked: Asked) -> Asked:
        """The request without the segment that a placement put in front of its path."""
        for method in self.manifest.auth:
            for placement in method.placements:
                if placement.at == "path":
                    asked = without_segment(asked, placement.format)
        return asked

    def _fault(self, endpoint: str) -> Fault | None:
        for index, fault in enumerate(self.faults):
            if fault.endpoint == endpoint:
                return self.faults.pop(index)
        return None

    def _calls(self) -> Iterator[Call]:
        for method in self.manifest.auth:
            userinfo = method.userinfo if isinstance(method, OAuth2Auth) else None
            for call in (userinfo, method.verify, *method.discover):
                if call is not None:
                    yield call

    def _call(self, asked: Asked, calls: Sequence[Call]) -> Response:
        account = self._holder(asked)
        if account is None:
            return _unauthorized()
        document = account.answer(calls, self.manifest)
        return JSONResponse(document, status_code=calls[0].success_statuses[0])

    def _api(self, asked: Asked) -> Response:
        if self._holder(asked) is None:
            return _unauthorized()
        return example_answer(self.examples, asked, self.now())

    def _holder(self, asked: Asked) -> TwinAccount | None:
        found = (authority.holder(asked) for authority in self._authorities)
        return next((account for account in found if account is not None), None)


def _answered(
    authority: Authority, answer: Callable[[], Response], fault: Fault | None
) -> tuple[Response, str | None]:
    failing = fault is not None and fault.status is not None
    if fault is not None and failing and not fault.after:
        return JSONResponse(fault.body, status_code=fault.status or 500), "fault"
    try:
        response, error = answer(), None
    except Refused as refused:
        response, error = authority.refused(refused), refused.code
    if fault is not None and failing:
        return JSONResponse(fault.body, status_code=fault.status or 500), "fault"
    return response, error


def _unauthorized() -> Response:
    words = "The credential is missing, expired or not in its place."
    return JSONResponse(
        {"error": {"code": 401, "message": words, "status": "UNAUTHENTICATED"}},
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )
