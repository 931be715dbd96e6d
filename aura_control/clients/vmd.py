"""The daemon on a machine, as the control plane reaches it: one POST for each message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from aura_core.errors import (
    AuraError,
    BearerRejected,
    EnvelopeError,
    MalformedMessage,
    MessageTooLarge,
    ProviderUnavailable,
    RevisionConflict,
    SignatureInvalid,
    StaleRevision,
    WrongRecipient,
)

__all__ = ["VmdClient"]

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)
"""The deliverer bounds how many there are: a limit here would make messages to living machines wait
for dead ones. None is kept: the daemon closes each, and the next message comes in an hour."""
_LARGEST_ANSWER = 64 * 1024
_REFUSALS: dict[int, type[AuraError]] = {
    400: MalformedMessage,
    401: BearerRejected,
    403: SignatureInvalid,
    413: MessageTooLarge,
    421: WrongRecipient,
    422: EnvelopeError,
}
_CONFLICT = "conflict"


class VmdClient:
    """A ``MachineClient`` over HTTP; close it at the end.

    Redirects are not followed: a machine's answer must not send the next request, with its bearer
    token, anywhere else. Settings of the environment (proxies) are not used for the same reason.
    """

    def __init__(self, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            timeout=_TIMEOUT,
            limits=_LIMITS,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def push(
        self, *, push_url: str, gateway_token: SecretStr, subject: str, message: bytes
    ) -> Mapping[str, Any]:
        """Delivers a sealed message; the machine's acknowledgement, unchecked.

        Raises ProviderUnavailable when the machine does not answer, or not as a daemon does, and
        what it answered as an error: ``StaleRevision`` and ``RevisionConflict`` with the
        revision that it holds.
        """
        url = f"{push_url.rstrip('/')}/internal/credentials/{quote(subject, safe='')}"
        headers = {
            "Authorization": f"Bearer {gateway_token.get_secret_value()}",
            "Content-Type": "application/json",
        }
        try:
            async with self._http.stream("POST", url, content=message, headers=headers) as answer:
                body = await _bounded(answer)
        except httpx.HTTPError as error:
            # The class says enough (connect, read, time-out); its text can hold the address.
            reason = type(error).__name__
            raise ProviderUnavailable(f"The machine cannot be reached ({reason}).") from None
        document = _object(body)
        if answer.status_code == 200 and document is not None:
            return document
        raise _refusal(answer.status_code, document or {})


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ProviderUnavailable("The machine's answer is larger than any of a daemon's.")
    return bytes(body)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _refusal(status: int, problem: Mapping[str, Any]) -> AuraError:
    stored = problem.get("stored")
    if status == 409 and type(stored) is int and 0 <= stored < 2**53:
        if _CONFLICT in str(problem.get("type", "")):
            return RevisionConflict("The machine holds another message.", stored=stored)
        return StaleRevision("The machine holds a newer message.", stored=stored)
    if status in _REFUSALS:
        return _REFUSALS[status](f"The machine refused the message ({status}).")
    return ProviderUnavailable(f"The machine did not answer as a daemon does ({status}).")
