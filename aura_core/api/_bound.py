"""The ``api`` of a tool in the control plane: bound to the manifest's hosts and one credential."""

from __future__ import annotations

import asyncio
import json as jsonlib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from pydantic import SecretStr

from aura_core.api._http import Reply, fetch
from aura_core.api._outcomes import failure
from aura_core.credentials import BrokerBinding
from aura_core.errors import (
    PermissionDenied,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
    ReauthorizationRequired,
)
from aura_core.manifest import TokenUsage
from aura_core.permissions import AgentPermissions, Decision, Meter, TokenReader, require
from aura_core.placement import OutgoingRequest, place, resolve_target
from aura_core.tools import ApiAnswer, ToolApi

__all__ = ["BoundApi"]

MAX_TOOL_ANSWER = 16 * 1024 * 1024
_ATTEMPTS = 3
_SHORTEST_SECRET = 8


def _utc_now() -> datetime:
    return datetime.now(UTC)


class BoundApi(ToolApi):
    """Calls to one provider with one credential.

    Every call passes the same checks as on a machine: the host must be one that the manifest
    names, with ``permissions`` the agent must hold the scope that the request needs, and with a
    ``meter`` its limits must leave room for it. Nothing is logged here; errors hold the provider's
    words but no credential.
    """

    def __init__(
        self,
        binding: BrokerBinding,
        fields: Mapping[str, SecretStr],
        http: httpx.AsyncClient,
        *,
        permissions: AgentPermissions | None = None,
        meter: Meter | None = None,
        max_wait: float = 15.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """``max_wait``: seconds that one call may spend waiting for a rate limit, in all."""
        self._binding = binding
        self._fields = dict(fields)
        self._http = http
        self._permissions = permissions
        self._meter = meter
        self._max_wait = max_wait
        self._sleep = sleep
        self._now = now

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Mapping[str, str | int | bool | Iterable[str]] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """See :meth:`ToolApi.send`. A call that the provider put off is sent again, because it was
        not carried out; all others are sent once. However often it is sent, it counts once."""
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if json is not None:
            body = jsonlib.dumps(json).encode()
            sent.setdefault("content-type", "application/json")
        target = resolve_target(self._binding, _with_query(url, query))
        decision = None
        if self._permissions is not None:
            decision = require(self._binding, self._permissions, method=method, target=target)
        request = place(
            self._binding, self._fields, method=method, target=target, headers=sent, body=body
        )
        answer = await self._counted(request, decision)
        self._refuse_reflection(answer)
        return ApiAnswer(
            status=answer.status,
            headers={k: v for k, v in answer.headers.items() if k != "set-cookie"},
            body=answer.body,
        )

    async def _counted(self, request: OutgoingRequest, decision: Decision | None) -> Reply:
        """The call, counted before it is made; what it cost is counted however it ended."""
        if self._meter is None or decision is None:
            return await self._within_limits(request)
        taken = await self._meter.take(decision)
        answer: Reply | None = None
        costs = decision.usage is not None
        try:
            answer = await self._within_limits(request)
        except ProviderUnavailable as error:
            costs = costs and error.sent
            if not error.sent:
                await self._meter.refund(taken)
            raise
        except (RateLimited, ReauthorizationRequired):
            costs = False  # the provider said no, and counts nothing for that
            raise
        except ProviderRejected as error:
            costs = costs and error.status is None  # its answer came, and was too large
            raise
        finally:
            if decision.usage is not None and costs:
                await asyncio.shield(self._meter.spend(_tokens(decision.usage, request, answer)))
        return answer

    async def _within_limits(self, request: OutgoingRequest) -> Reply:
        waited, attempt = 0.0, 0
        while True:
            attempt += 1
            answer = await fetch(
                self._http,
                request.method,
                request.url,
                headers=request.headers,
                content=request.body,
                limit=MAX_TOOL_ANSWER,
            )
            error = failure(
                answer,
                name=self._binding.provider,
                rate_limit=self._binding.rate_limit,
                secrets=self._fields.values(),
                now=self._now(),
            )
            if error is None:
                return answer
            if not isinstance(error, RateLimited) or attempt == _ATTEMPTS:
                raise error
            wait = self._wait(error.retry_after, attempt)
            if waited + wait > self._max_wait:
                raise error
            waited += wait
            await self._sleep(wait)

    def _wait(self, asked: float, attempt: int) -> float:
        """Never shorter than asked, and a little longer, so that many do not return at once."""
        growth = 1.0 if self._binding.rate_limit.backoff == "constant" else 2.0 ** (attempt - 1)
        return max(asked, min(asked, 1.0) * growth) + random.uniform(0, 0.25)  # noqa: S311 - no secret

    def _refuse_reflection(self, answer: Reply) -> None:
        # An endpoint that echoes requests would hand the credential to whoever reads the answer.
        head = "\n".join(answer.headers.values()).encode()
        for name, secret in self._fields.items():
            if name in self._binding.public_fields:
                continue
            value = secret.get_secret_value().encode()
            if len(value) >= _SHORTEST_SECRET and (value in answer.body or value in head):
                raise PermissionDenied(
                    f"{self._binding.provider} repeated the credential in its answer, "
                    "which is withheld.",
                    rule="reflected",
                )


def _tokens(usage: TokenUsage, request: OutgoingRequest, answer: Reply | None) -> int:
    reader = TokenReader(usage)
    if answer is not None:
        reader.begin(answer.headers.get("content-type", ""))
        reader.feed(answer.body)
    return reader.spent(
        status=None if answer is None else answer.status,
        sent=len(request.body or b""),
        complete=answer is not None,
    )


def _with_query(url: str, query: Mapping[str, str | int | bool | Iterable[str]] | None) -> str:
    pairs = [(name, text) for name, value in (query or {}).items() for text in _texts(value)]
    if not pairs:
        return url
    return url + ("&" if "?" in url else "?") + urlencode(pairs, quote_via=quote)


def _texts(value: str | int | bool | Iterable[str]) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, str | int | float):
        return [str(value)]
    return [str(item) for item in value]
