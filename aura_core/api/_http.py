"""HTTP towards providers: one client's settings, and one call whose answer is bounded."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx

import aura_core
from aura_core.api._connecting import CheckedTransport
from aura_core.errors import ProviderRejected, ProviderUnavailable
from aura_core.tools import ApiAnswer

__all__ = ["MAX_ANSWER", "USER_AGENT", "Reply", "fetch", "http_client"]

MAX_ANSWER = 1024 * 1024
"""Bytes that the answer of a token endpoint or a verification call may have."""
_LATE = 1.0
_T = TypeVar("_T")

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

USER_AGENT = f"aura/{aura_core.__version__}"


@dataclass(frozen=True, kw_only=True)
class Reply(ApiAnswer):
    """A provider's answer with the cookies it set (some log in by cookie)."""

    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)


_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=40)


def http_client(
    *,
    timeout: float = 20.0,
    transport: httpx.AsyncBaseTransport | None = None,
    private_hosts: Iterable[str] = (),
) -> httpx.AsyncClient:
    """The client that all calls to providers share. ``timeout`` (seconds) is for each read.

    It connects to public addresses only, but for ``private_hosts`` and for URLs that say loopback
    themselves; a call to another raises :class:`AddressRefused`.

    It follows no redirect, because a redirect would carry a credential to a host that nobody
    checked; takes no proxy from the environment; and keeps no cookies, because one user's session
    must not travel in the next user's call.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
        transport=transport or CheckedTransport(limits=_LIMITS, private_hosts=private_hosts),
    )


async def fetch(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    limit: int = MAX_ANSWER,
    deadline: float = 60.0,
    spends: bool = False,
) -> Reply:
    """One call and its whole answer, of at most ``limit`` bytes, within ``deadline`` seconds.

    A call that ``spends`` something (a code, a refresh token) is given all of that time: to hang up
    on a provider that is slow is to lose what it will still answer. Other calls end at the client's
    own time-out between two reads.

    Raises :class:`ProviderUnavailable` for a call without an answer, :class:`AddressRefused` for
    a host at an address that is not public, and :class:`ProviderRejected` for an answer that is
    too large, each with its ``effect``. Messages name the host only: the rest of a URL can be
    secret.
    """
    try:
        request = http.build_request(method, url, headers=dict(headers or {}), content=content)
    except httpx.InvalidURL:  # a host that is spelled like an address and is none, for one
        raise ProviderUnavailable("The provider's address cannot be called.", sent=False) from None
    if spends:
        request.extensions["timeout"] = {**request.extensions["timeout"], "read": None}
    host = request.url.host
    try:
        response, body = await _within(deadline, _answered(http, request, limit))
    except TimeoutError:
        raise ProviderUnavailable(
            f"{host} did not answer within {deadline:g} seconds.", effect="unknown"
        ) from None
    except httpx.HTTPError as error:
        sent = not isinstance(error, _NEVER_SENT)
        raise ProviderUnavailable(
            f"{host} did not answer: {type(error).__name__}.",
            sent=sent,
            effect="unknown" if sent else "none",
        ) from None
    return Reply(
        status=response.status_code,
        headers={name.lower(): value for name, value in response.headers.items()},
        body=body,
        cookies=dict(response.cookies),
    )


async def _answered(
    http: httpx.AsyncClient, request: httpx.Request, limit: int
) -> tuple[httpx.Response, bytes]:
    response = await http.send(request, stream=True)
    try:
        return response, await _bounded(response, limit)
    finally:
        await response.aclose()


async def _within(deadline: float, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of ``work``, or TimeoutError.

    A process that was stopped for longer than the deadline wakes up with its time over and the
    answer in its socket. ``asyncio.timeout`` would cancel the call before that is read; here it
    gets a moment more, counted from the waking.
    """
    task = asyncio.ensure_future(work)
    try:
        for seconds in (deadline, _LATE):
            done, _ = await asyncio.wait({task}, timeout=seconds)
            if done:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    if response.is_stream_consumed:  # an answer that a test or a cache holds in memory
        return _checked(response.content, limit)
    raw = bytearray()
    async for chunk in response.aiter_raw():
        raw += chunk
        if len(raw) > limit:
            break
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _checked(_inflate(bytes(raw), limit), limit)
    if encoding not in ("identity", ""):
        raise ProviderRejected(
            f"The provider answered in the encoding {encoding[:20]!r}.", effect="unclear"
        )
    return _checked(bytes(raw), limit)


def _inflate(raw: bytes, limit: int) -> bytes:
    """Decompress to one byte past the limit and no further: a small answer can unpack to a lot."""
    try:
        return zlib.decompressobj(wbits=47).decompress(raw, limit + 1)
    except zlib.error:
        raise ProviderUnavailable("The provider's answer is damaged.", effect="unclear") from None


def _checked(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise ProviderRejected(
            f"The provider's answer is larger than {limit} bytes.", effect="unclear"
        )
    return body
