"""The broker: the agent asks for a call, and gets an answer; never the credential.

    ANY /v1/{provider}/{path}     one call; Aura-Host names another of the manifest's hosts
    GET /v1                       which providers there are, and what the agent may do

The agent is taken to be hostile: it chooses method, path, query, headers and body. What it sends
is judged by the policy, put together anew by ``aura_core.placement``, and recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web

from aura_core.credentials import BrokerBinding
from aura_core.errors import (
    AuraError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
)
from aura_core.permissions import TokenReader
from aura_core.placement import OutgoingRequest, place
from aura_core.rate_limits import rate_limited
from aura_core.tools import ApiAnswer
from aura_vmd.actions import ActionLog
from aura_vmd.bodies import read_body
from aura_vmd.calls import Call
from aura_vmd.gate import head_complete
from aura_vmd.metering import Metering
from aura_vmd.outgoing import ProviderClient, end_to_end
from aura_vmd.policy import Permit, Policy
from aura_vmd.problems import ANSWERED_BY, log_unexpected, problem, problem_response
from aura_vmd.reflection import Search
from aura_vmd.refusals import Refusals

__all__ = ["Broker", "BrokerLimits"]

_log = logging.getLogger(__name__)

HOST_HEADER = "Aura-Host"
_PREFIX = "/v1/"


@dataclass(frozen=True, kw_only=True)
class BrokerLimits:
    """Bytes, seconds, and calls at a time."""

    request_body: int = 16 * 1024 * 1024
    body_seconds: float = 30.0
    answer_body: int = 32 * 1024 * 1024
    buffered: int = 1024 * 1024
    """Answers up to here are searched as a whole before any of them is passed on."""
    calls: int = 8


class Broker:
    """The handler of the broker's server."""

    def __init__(
        self,
        *,
        policy: Policy,
        provider: ProviderClient,
        actions: ActionLog,
        meter: Metering,
        refusals: Refusals,
        limits: BrokerLimits,
    ) -> None:
        self._policy = policy
        self._provider = provider
        self._actions = actions
        self._meter = meter
        self._refusals = refusals
        self._limits = limits
        self._unfinished: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(limits.calls)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; each connection carries one."""
        head_complete(request)
        try:
            return await self._handle(request)
        except Exception as error:  # noqa: BLE001 - a bug must cost one call, not the daemon
            log_unexpected(_log, error)
            return problem_response(error)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        # The target as it was sent: a router would decode or normalise it, and judge another path
        # than the one that the provider gets.
        target = request.raw_path
        if target in ("/v1", "/v1/") and request.method == "GET":
            found = {**self._policy.overview(), "limits": self._meter.overview()}
            return _ending(web.json_response(found))
        provider, slash, path = target.removeprefix(_PREFIX).partition("/")
        call = Call(method=request.method, provider=provider.partition("?")[0])
        try:
            if not target.startswith(_PREFIX) or not slash:
                raise NotFound(f"The broker serves {_PREFIX}{{provider}}/{{path}} and /v1.")
            async with self._slots:
                return await self._answer(request, call, "/" + path)
        except AuraError as error:
            return await self._refuse(call, error)
        finally:
            # Half of the answer is out; ending the connection without the last chunk is how HTTP
            # says that the rest is missing (RFC 9112 §8).
            if call.cut and request.transport is not None:
                request.transport.abort()

    async def _answer(self, request: web.BaseRequest, call: Call, path: str) -> web.StreamResponse:
        call.path = path.partition("?")[0]
        self._permit(request, call, path)
        body = await read_body(
            request, limit=self._limits.request_body, seconds=self._limits.body_seconds
        )
        # Again: an agent that is slow with its body must not use what was meanwhile taken away,
        # and whose deletion this machine has acknowledged.
        permit = self._permit(request, call, path)
        outgoing = place(
            permit.binding,
            permit.payload.fields,
            method=request.method,
            target=permit.target,
            headers=request.headers,
            body=body or None,
        )
        try:
            response = await self._counted(request, call, permit, outgoing)
        except asyncio.CancelledError:
            # The agent hung up, or the daemon ends; what was done is recorded all the same.
            await self._finish(self._actions.record(call.entry("abandoned")))
            raise
        await self._actions.record(call.entry("answered"))
        return response

    async def _counted(
        self, request: web.BaseRequest, call: Call, permit: Permit, outgoing: OutgoingRequest
    ) -> web.StreamResponse:
        """The call, counted before it is made; what it cost is counted however it ends."""
        taken = await self._meter.take(permit.decision)
        try:
            if request.method not in ("GET", "HEAD"):
                # What may change something outside is recorded before it is asked for.
                await self._actions.record(call.entry("asked"))
            call.sent = True
            if permit.decision.usage is not None:
                call.reader = TokenReader(permit.decision.usage)
                call.size = len(outgoing.body or b"")
            async with self._provider.call(
                outgoing, private_hosts=permit.binding.private_hosts
            ) as answer:
                call.status = answer.status
                return await self._pass_on(request, call, answer, permit)
        except ProviderUnavailable as error:
            call.sent = error.sent
            raise
        finally:
            if call.sent:
                # An agent that hangs up has spent what it asked for all the same.
                await self._charge(call, complete=False)
            else:
                await self._finish(self._meter.refund(taken))

    async def _charge(self, call: Call, *, complete: bool) -> None:
        """Count the call's tokens, once."""
        reader, call.reader = call.reader, None
        if reader is None:
            return
        cost = partial(reader.spent, status=call.status, sent=call.size, complete=complete)
        await self._finish(self._spend(cost))

    async def _spend(self, cost: Callable[[], int]) -> None:
        await self._meter.spend(await asyncio.to_thread(cost))

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for what is done to its end, whoever stops waiting."""
        task = asyncio.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait until what was spent is counted, and what was done recorded; at shutdown."""
        while self._unfinished:  # what is counted may leave a line to be recorded
            await asyncio.gather(*self._unfinished, return_exceptions=True)

    def _permit(self, request: web.BaseRequest, call: Call, path: str) -> Permit:
        if "Content-Encoding" in request.headers or "Upgrade" in request.headers:
            raise InvalidInput("The broker takes neither encoded bodies nor upgrades.")
        if len(request.headers.getall(HOST_HEADER, ())) > 1:
            raise InvalidInput(f"{HOST_HEADER} is given more than once.")
        try:
            permit = self._policy.permit(
                method=request.method,
                provider=call.provider,
                path=path,
                host=request.headers.get(HOST_HEADER),
            )
        except PermissionDenied as error:
            call.rule = error.rule
            raise
        call.host, call.path, call.rule = permit.target.host, permit.target.path, permit.rule
        return permit

    async def _pass_on(
        self,
        request: web.BaseRequest,
        call: Call,
        answer: aiohttp.ClientResponse,
        permit: Permit,
    ) -> web.StreamResponse:
        if answer.status < 200:
            raise ProviderUnavailable("The provider switches protocols without being asked to.")
        limit = self._limits.answer_body
        watch = None
        if call.reader is not None:
            call.reader.begin(answer.headers.get("Content-Type", ""))
            watch = call.reader.feed
        encoding = answer.headers.get("Content-Encoding", "")
        search = Search(permit.held.needles, encoding=encoding, watch=watch)
        search.headers(answer.headers.items())
        if (answer.content_length or 0) > limit and request.method != "HEAD":
            raise _too_long(limit)
        start = bytearray()
        pieces = answer.content.iter_any()
        over = True
        async for piece in pieces:
            call.received += len(piece)
            start += search.feed(piece)
            if call.received > self._limits.buffered:
                over = False
                break
        if over:
            start += search.rest()
            await self._charge(call, complete=True)
            _check_pace(permit.binding, answer, bytes(start))
            return _ending(_response(web.Response(status=answer.status, body=bytes(start)), answer))
        response = _ending(_response(web.StreamResponse(status=answer.status), answer))
        await response.prepare(request)
        try:
            await response.write(bytes(start))
            async for piece in pieces:
                call.received += len(piece)
                if call.received > limit:
                    raise _too_long(limit)
                await response.write(search.feed(piece))
            # Before the agent sees the end: its next call finds what this one cost.
            await self._charge(call, complete=True)
            await response.write(search.rest())
            await response.write_eof()
        except BaseException:
            call.cut = True
            raise
        return response

    async def _refuse(self, call: Call, error: AuraError) -> web.StreamResponse:
        call.rule = getattr(error, "rule", None) or call.rule
        call.problem = problem(error)["type"].rpartition(":")[2]
        outcome = "refused" if call.status is None else "withheld"
        entry = call.entry(outcome)
        # To its end: an agent that hangs up at once must not keep a refusal from its owner.
        await self._finish(self._tell(entry, refused=isinstance(error, PermissionDenied)))
        return problem_response(error)

    async def _tell(self, entry: Mapping[str, Any], *, refused: bool) -> None:
        await self._actions.record(entry)
        if refused:
            await self._refusals.record(entry)


def _response(response: web.StreamResponse, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    for name, value in end_to_end(answer):
        response.headers.add(name, value)
    response.headers[ANSWERED_BY] = "provider"
    return response


def _check_pace(binding: BrokerBinding, answer: aiohttp.ClientResponse, body: bytes) -> None:
    """Raises ``RateLimited`` where the provider asks to slow down, which each says in its own way:
    the agent gets one, with the seconds to wait."""
    if answer.status not in binding.rate_limit.statuses:
        return
    headers = {name.lower(): value for name, value in answer.headers.items()}
    said = ApiAnswer(status=answer.status, headers=headers, body=body)
    limited = rate_limited(said, binding.rate_limit, name=binding.provider, now=datetime.now(UTC))
    if limited is not None:
        raise limited


def _ending(response: web.StreamResponse) -> web.StreamResponse:
    response.force_close()
    return response


def _too_long(limit: int) -> PermissionDenied:
    return PermissionDenied(
        f"The provider's answer is longer than {limit} bytes, so it is not passed on.",
        rule="size",
        hint="Ask for less: a page, a range, fewer fields.",
    )
