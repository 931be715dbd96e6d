"""The control plane as the daemon reaches it: join, heartbeat, pull, acknowledge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from aura_core import __version__
from aura_core.encoding import load_object
from aura_core.errors import AuthenticationRequired, MalformedMessage, ProviderUnavailable
from aura_core.wire import VmKeys, sign_request

__all__ = ["ControlClient", "control_client"]

_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10, sock_read=20)
_LARGEST_ANSWER = 16 * 1024 * 1024


@asynccontextmanager
async def control_client(
    *, url: str, instance_id: str, keys: VmKeys, now_ms: Callable[[], int]
) -> AsyncIterator[ControlClient]:
    """A client with connections of its own.

    Redirects are not followed and the environment's proxies not used: the join token goes to the
    configured address and nowhere else.
    """
    async with aiohttp.ClientSession(
        timeout=_TIMEOUT,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={
            "User-Agent": f"aura-vmd/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        },
    ) as session:
        yield ControlClient(
            session=session, url=url, instance_id=instance_id, keys=keys, now_ms=now_ms
        )


class ControlClient:
    """Signed requests to one control plane."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        url: str,
        instance_id: str,
        keys: VmKeys,
        now_ms: Callable[[], int],
    ) -> None:
        self._session = session
        self._url = url
        self._instance_id = instance_id
        self._keys = keys
        self._now_ms = now_ms
        self._last_report = 0

    async def join(self, request: bytes) -> bytes:
        """Post a join request (it signs itself); the sealed answer as it came."""
        return await self._post("/vm/v1/join", request, signed=False)

    async def heartbeat(
        self,
        *,
        revisions: Mapping[str, int],
        health: Mapping[str, Any],
        conduct: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Report; the answer is ``{"lacking": [...], "heartbeat_seconds": n}``, and what answers
        the ``conduct`` (what the agent used and was refused)."""
        # Strictly increasing, whatever the clock does: the control plane drops what it saw before.
        issued_at = self._last_report = max(self._last_report + 1, self._now_ms())
        body = {"issued_at": issued_at, "revisions": dict(revisions), "health": dict(health)}
        body |= conduct or {}
        return _object(await self._post("/vm/v1/heartbeat", _json(body)))

    async def pull(self, *, revisions: Mapping[str, int]) -> dict[str, Any]:
        """Ask for what is lacking: ``{"messages": [...], "more": bool}``."""
        return _object(await self._post("/vm/v1/pull", _json({"revisions": dict(revisions)})))

    async def ack(self, acks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Hand in signed acknowledgements: ``{"acked": [subjects]}``."""
        return _object(await self._post("/vm/v1/ack", _json({"acks": list(acks)})))

    async def _post(self, path: str, body: bytes, *, signed: bool = True) -> bytes:
        """One request. Raises ``ProviderUnavailable`` when trying again may help, and
        ``AuthenticationRequired`` when the control plane refuses this machine."""
        url = self._url + path
        headers: dict[str, str] = {}
        if signed:
            headers = sign_request(
                self._keys,
                method="POST",
                path=urlsplit(url).path,
                instance_id=self._instance_id,
                issued_at=self._now_ms(),
                body=body,
            )
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                raw = await _bounded(answer)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # The class says enough; the text of some of these quotes what was received.
            reason = type(error).__name__
            raise ProviderUnavailable(f"The control plane cannot be reached ({reason}).") from None
        if answer.status == 200:
            return raw
        if answer.status in (408, 425, 429) or answer.status >= 500:
            raise ProviderUnavailable(f"The control plane is not able to answer ({answer.status}).")
        raise AuthenticationRequired(
            f"The control plane refuses this machine at {path} ({answer.status}): {_detail(raw)}"
        )


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ProviderUnavailable("The control plane's answer is larger than any of its own.")
    return bytes(body)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return load_object(raw)
    except ValueError as error:
        raise MalformedMessage(f"The control plane's answer {error}.") from None


def _detail(raw: bytes) -> str:
    """A problem document's own words, cut short and printable: they go into the log."""
    try:
        text = str(load_object(raw).get("detail", ""))
    except ValueError:
        return "no reason given."
    return "".join(c if c.isprintable() else " " for c in text[:300]) or "no reason given."
