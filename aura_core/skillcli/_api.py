"""The broker as a tool's ``api``: HTTP over its Unix socket, and its problems as our errors."""

from __future__ import annotations

import asyncio
import http.client
import json as jsonlib
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from aura_core import errors
from aura_core.tools import ApiAnswer, ToolApi

__all__ = ["BrokerApi"]

_SECONDS = 150.0  # longer than the broker itself waits for a provider
_LARGEST = 33 * 1024 * 1024
_WORDS = 400


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("broker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class BrokerApi(ToolApi):
    """The ``api`` of a tool on a machine: the broker adds the credential, or says why not."""

    def __init__(self, *, provider: str, socket_path: str) -> None:
        self._provider = provider
        self._socket_path = socket_path

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
        """See :meth:`ToolApi.send`. ``url`` is a path on the API's base URL, or absolute."""
        sent = dict(headers or {})
        if json is not None:
            body = jsonlib.dumps(json).encode()
            sent.setdefault("Content-Type", "application/json")
        path = url
        if "://" in url.partition("?")[0]:
            parts = urlsplit(url)
            sent["Aura-Host"] = parts.netloc
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        answer = await asyncio.to_thread(
            self._exchange, method.upper(), _with_query(path, query), body, sent
        )
        _raise_for(answer)
        return answer

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> ApiAnswer:
        target = f"/v1/{self._provider}{path}"
        connection = _Connection(self._socket_path)
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            response = connection.getresponse()
            data = response.read(_LARGEST + 1)
        except (http.client.InvalidURL, ValueError):
            raise errors.InvalidInput(
                "The path or a header holds characters that HTTP does not carry."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise errors.ProviderUnavailable(
                f"The broker did not answer: {reason}.",
                hint="The machine's daemon may be starting.",
            ) from None
        finally:
            connection.close()
        if len(data) > _LARGEST:
            raise errors.ProviderRejected("The answer is too long.", status=response.status)
        found = {name.lower(): value for name, value in response.getheaders()}
        return ApiAnswer(status=response.status, headers=found, body=data)


def _with_query(path: str, query: Mapping[str, Any] | None) -> str:
    pairs = [(name, text) for name, value in (query or {}).items() for text in _texts(value)]
    if not pairs:
        return path
    return path + ("&" if "?" in path else "?") + urlencode(pairs, quote_via=quote)


def _texts(value: Any) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, str | int | float):
        return [str(value)]
    return [str(item) for item in value]


def _raise_for(answer: ApiAnswer) -> None:
    """Turn an error answer into the error that it means; who said it decides how it is read."""
    if answer.headers.get("aura-answered-by") == "broker" and answer.status >= 400:
        raise _of_problem(answer)
    if answer.status < 400:
        return
    words = answer.body[:_WORDS].decode(errors="replace").strip()
    message = f"The provider answered with status {answer.status}: {words}"
    if answer.status == 429:
        wait = answer.headers.get("retry-after", "")
        raise errors.RateLimited(message, retry_after=float(wait) if wait.isdigit() else 1.0)
    if answer.status == 401:
        raise errors.ReauthorizationRequired(
            message, hint="The account's owner may have to connect it again."
        )
    if answer.status >= 500:
        raise errors.ProviderUnavailable(message)
    raise errors.ProviderRejected(message, status=answer.status)


_PROBLEMS: Mapping[str, type[errors.AuraError]] = {
    "not-found": errors.NotFound,
    "invalid-input": errors.InvalidInput,
    "message-too-large": errors.InvalidInput,
    "credential-expired": errors.RefreshFailed,
    "refresh-failed": errors.RefreshFailed,
    "reauthorization-required": errors.ReauthorizationRequired,
}


def _of_problem(answer: ApiAnswer) -> errors.AuraError:
    """The broker's problem document (RFC 9457) as the error that it was made of."""
    try:
        document = jsonlib.loads(answer.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return errors.ProviderUnavailable(f"The broker failed ({answer.status}).")
    name = str(document.get("type", "")).rpartition(":")[2]
    message = str(document.get("detail") or document.get("title") or name)
    hint = document.get("hint")
    hint = hint if isinstance(hint, str) else None
    wait = document.get("retry_after")
    seconds = float(wait) if isinstance(wait, int | float) else 1.0
    rule = str(document.get("rule", ""))
    if name == "limit-reached":
        return errors.LimitReached(message, rule=rule, retry_after=seconds, hint=hint)
    if name in ("permission-denied", "address-refused"):
        return errors.PermissionDenied(message, rule=rule, hint=hint)
    if name == "rate-limited":
        return errors.RateLimited(message, retry_after=seconds, hint=hint)
    return _PROBLEMS.get(name, errors.ProviderUnavailable)(message, hint=hint)
