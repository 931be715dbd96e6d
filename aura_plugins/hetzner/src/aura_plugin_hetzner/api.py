"""One request to Hetzner, by hcloud, from asyncio.

hcloud is synchronous and made for scripts. Four of its habits are unfit for a service, so only its
``Client.request`` is used, which is one request and its answer read:

- It repeats requests by itself, a POST after a read time-out too: a server could be made twice.
  That is switched off; what may be repeated is decided here, with what is known of the request.
- It has no time-out of its own. Ours are 5 seconds to connect and 60 to read.
- Its models ask for what they lack when an attribute is read, and its lists fetch page after page:
  requests that nobody counts. Every request of ours takes its turn at :class:`Pace`.
- A session is not safe to share between threads: each thread of a small pool has its own client.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import hcloud
import requests

from aura_plugin_hetzner.failures import Lost, Refused
from aura_plugin_hetzner.pace import Clock, Pace, RetryBudget
from aura_plugin_hetzner.settings import HetznerSettings

__all__ = ["Api"]

_log = logging.getLogger(__name__)

TIMEOUT = (5.0, 60.0)
_THREADS = 8
_REPEATS = 4
_PER_PAGE = 50
_MOST_PAGES = 200

_NOT_BEGUN = frozenset({"conflict", "locked", "rate_limit_exceeded"})
"""Refusals that say that nothing was done, so that any request may be made again."""
_UNKNOWN = frozenset({"bad_gateway", "server_error", "service_error", "timeout", "unavailable"})
"""Refusals after which it is not known what was done."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    document: dict[str, Any] | None = None
    refused: Refused | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Api:
    """Hetzner's API for one project. Close it at the end."""

    def __init__(
        self,
        settings: HetznerSettings,
        *,
        clock: Clock,
        timeout: tuple[float, float] = TIMEOUT,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._timeout = timeout
        self._pace = Pace(clock=clock)
        self._budget = RetryBudget()
        self._pool = pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="hetzner")
        self._of_thread = threading.local()
        self._sessions: list[requests.Session] = []

    async def aclose(self) -> None:
        """Ends the threads, after the requests that they are at, and closes connections."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()

    async def every(self, path: str, what: str, **query: Any) -> list[dict[str, Any]]:
        """All items of a list, by pages of 50; ``what`` is their name in the answer."""
        found: list[dict[str, Any]] = []
        page: int | None = 1
        for _ in range(_MOST_PAGES):
            answer = await self.call("GET", path, {**query, "page": page, "per_page": _PER_PAGE})
            try:
                found += answer[what]
                page = answer["meta"]["pagination"]["next_page"]
            except (KeyError, TypeError):
                raise Lost(f"GET {path}", code="unexpected_answer") from None
            if page is None:
                return found
        raise Lost(f"{path} has more than {_MOST_PAGES} pages")

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One request, repeated where that cannot do harm.

        Raises :class:`Refused` with Hetzner's code; :class:`Lost` where it is not known whether the
        request was carried out; :class:`aura_core.errors.RateLimited` where it would have to wait
        for too long.
        """
        self._budget.first()
        for attempt in range(_REPEATS):
            failure: Refused | Lost
            try:
                return await self._once(method, path, query, body)
            except (Refused, Lost) as error:
                failure = error
            last = attempt == _REPEATS - 1
            if last or not _repeatable(method, failure) or not self._budget.spend():
                raise failure
            # Not all at the same moment, after the same failure.
            await self._clock.sleep(2.0**attempt * random.uniform(0.75, 1.25))  # noqa: S311
        raise AssertionError("the last attempt returns or raises")

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        turn = await self._pace.turn()
        headers: Mapping[str, str] = {}
        try:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._pool, self._send, method, path, query, body)
            headers = answer.headers
        finally:
            self._pace.answered(turn, headers)
        if answer.document is not None:
            return answer.document
        if answer.refused is None:
            raise Lost(f"{method} {path}")
        if answer.refused.code == "rate_limit_exceeded":
            self._pace.refused()
        if answer.refused.code in _UNKNOWN:
            raise Lost(f"{method} {path}", code=answer.refused.code)
        raise answer.refused

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
    ) -> _Answer:
        """In a thread. Errors of requests hold the request, with its token and user-data: of them
        nothing but that it failed gets out."""
        client = self._client()
        self._of_thread.headers = {}
        arguments: dict[str, Any] = {} if query is None else {"params": query}
        if body is not None:
            arguments["json"] = body
        try:
            document = client.request(method, path, **arguments)
        except hcloud.APIException as error:
            return _Answer(refused=Refused.of(error), headers=self._of_thread.headers)
        except (requests.RequestException, KeyError, TypeError, AttributeError) as error:
            # The last three are hcloud's, where an error is not the document that it should be.
            _log.debug("a request to Hetzner failed: %s", type(error).__name__)
            return _Answer(headers=self._of_thread.headers)
        return _Answer(document=document, headers=self._of_thread.headers)

    def _client(self) -> hcloud.Client:
        client: hcloud.Client | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = hcloud.Client(
                self._settings.token.get_secret_value(),
                api_endpoint=self._settings.endpoint,
                application_name="aura",
                timeout=self._timeout,
            )
            # hcloud has no public way to either; tests hold both against the pinned version.
            client._client._retry_max_retries = 0
            session = client._client._session
            # Neither a proxy nor a .netrc of the environment, nor a redirect, gets the token.
            session.trust_env = False
            session.max_redirects = 0
            session.hooks["response"].append(self._seen)
            self._sessions.append(session)
            self._of_thread.client = client
        return client

    def _seen(self, response: requests.Response, **_: Any) -> None:
        self._of_thread.headers = response.headers


def _repeatable(method: str, failure: Refused | Lost) -> bool:
    if isinstance(failure, Refused):
        return failure.code in _NOT_BEGUN
    return method != "POST"
