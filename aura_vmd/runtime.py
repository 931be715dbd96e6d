"""Whether the agent's runtime works: its own word, asked for over a socket or a loopback port.

The answer is the agent's and as little to be trusted as anything of it: it is bounded in size and
time, and reported, not acted on.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from aura_core.runtime import Readiness

__all__ = ["probe"]

_TIMEOUT = aiohttp.ClientTimeout(total=3)
_LARGEST = 8 * 1024
_DEEPEST = 8


async def probe(readiness: Readiness | None, *, root: Path) -> dict[str, Any]:
    """``{"ready": bool, "detail": {...}}``. A machine that names no probe has nothing to wait for.

    Ready is status 200 without ``"ready": false`` in its JSON.
    """
    if readiness is None or (readiness.socket is None and readiness.port is None):
        return {"ready": True, "detail": {}}
    connector: aiohttp.BaseConnector
    if readiness.socket is not None:
        connector = aiohttp.UnixConnector(path=str(root / readiness.socket.lstrip("/")))
        url = f"http://runtime{readiness.path}"
    else:
        connector = aiohttp.TCPConnector()
        url = f"http://127.0.0.1:{readiness.port}{readiness.path}"
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=_TIMEOUT,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            raw = await answer.content.read(_LARGEST + 1)
            while len(raw) <= _LARGEST and not answer.content.at_eof():
                raw += await answer.content.read(_LARGEST + 1 - len(raw))
            return _judge(answer.status, raw)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return {"ready": False, "detail": {"error": type(error).__name__}}


def _judge(status: int, raw: bytes) -> dict[str, Any]:
    detail = _plain(raw)
    ready = status == 200 and detail.get("ready", True) is True
    return {"ready": ready, "detail": detail or {"status": status}}


def _plain(raw: bytes) -> dict[str, Any]:
    """The answer as a JSON object that everybody can read and store, else nothing.

    It goes on in the heartbeat, so what the control plane refuses (NaN, lone surrogates, NUL, a
    nest of brackets, a body of more than 64 KiB) would let the agent silence the daemon.
    """
    detail: Any = None
    with suppress(ValueError, RecursionError):
        detail = json.loads(raw) if len(raw) <= _LARGEST else None
    if not isinstance(detail, dict) or _depth(detail) > _DEEPEST:
        return {}
    with suppress(ValueError):
        json.dumps(detail, ensure_ascii=False, allow_nan=False).encode()
        text = json.dumps(detail)
        if len(text) <= _LARGEST and "\\u0000" not in text:
            return detail
    return {}


def _depth(value: object) -> int:
    """How deep lists and objects lie in each other, as far as it matters."""
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        inner: list[object] = []
        for part in level:
            if isinstance(part, dict):
                inner += part.values()
            elif isinstance(part, list):
                inner += part
        level = inner
    return depth
