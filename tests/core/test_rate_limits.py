"""How a provider says "slow down", and how long we are patient."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import respx

from aura_core.errors import (
    ProviderRejected,
    RateLimited,
)
from aura_core.manifest import RateLimit
from tests.core.bound import BASE, Waits, api
from tests.core.providers import NOW


@pytest.mark.parametrize(
    ("facts", "reply", "wait"),
    [
        ({}, httpx.Response(429, headers={"retry-after": "3"}), 3),
        ({}, httpx.Response(429, headers={"retry-after": "Sun, 01 Mar 2026 12:00:04 GMT"}), 4),
        ({}, httpx.Response(429), 1),
        ({"retry_after_header": "X-Wait"}, httpx.Response(429, headers={"x-wait": "2"}), 2),
        (
            {"reset_header": "X-Reset"},
            httpx.Response(429, headers={"x-reset": str(int(NOW.timestamp()) + 5)}),
            5,
        ),
        (
            {"reset_header": "X-Reset", "reset_kind": "epoch_milliseconds"},
            httpx.Response(429, headers={"x-reset": str(int(NOW.timestamp() * 1000) + 5000)}),
            5,
        ),
        (
            {"reset_header": "X-Reset", "reset_kind": "delta_seconds"},
            httpx.Response(429, headers={"x-reset": "5"}),
            5,
        ),
        (
            {"reset_header": "X-Reset", "reset_kind": "iso8601"},
            httpx.Response(429, headers={"x-reset": "2026-03-01T12:00:05Z"}),
            5,
        ),
        (
            {"hint_path": "error.message"},
            httpx.Response(429, json={"error": {"message": "try again in 2.5 seconds"}}),
            2.5,
        ),
        (
            {"statuses": (403,), "code_path": "code", "codes": ("REQUEST_LIMIT_EXCEEDED",)},
            httpx.Response(403, json={"code": "REQUEST_LIMIT_EXCEEDED"}),
            1,
        ),
        (
            {"statuses": (403, 429), "remaining_header": "X-Remaining"},
            httpx.Response(403, headers={"x-remaining": "0", "retry-after": "2"}),
            2,
        ),
    ],
)
async def test_rate_limits_are_waited_for(
    http: httpx.AsyncClient, facts: dict[str, Any], reply: httpx.Response, wait: float
) -> None:
    waits = Waits()
    with respx.mock:
        respx.get(f"{BASE}/v1").mock(side_effect=[reply, httpx.Response(200, json={"ok": 1})])
        client = api(http, waits, facts={"rate_limit": RateLimit(**facts)})
        assert await client.get("/v1") == {"ok": 1}
    (waited,) = waits.seconds
    assert wait <= waited <= wait + 0.25


async def test_patience_is_bounded(http: httpx.AsyncClient) -> None:
    waits = Waits()
    with respx.mock:
        route = respx.get(f"{BASE}/v1").respond(429, headers={"retry-after": "3600"})
        with pytest.raises(RateLimited) as caught:
            await api(http, waits).get("/v1")
        assert caught.value.retry_after == 3600
        assert (route.call_count, waits.seconds) == (1, [])
        route.respond(429, headers={"retry-after": "1"})
        with pytest.raises(RateLimited):
            await api(http, waits).get("/v1")
        assert (route.call_count, len(waits.seconds)) == (4, 2)


@pytest.mark.parametrize(("kind", "least"), [("exponential", [1, 2]), ("constant", [1, 1])])
async def test_backoff(http: httpx.AsyncClient, kind: str, least: list[float]) -> None:
    waits = Waits()
    with respx.mock:
        respx.get(f"{BASE}/v1").respond(429)
        with pytest.raises(RateLimited):
            await api(http, waits, facts={"rate_limit": RateLimit(backoff=kind)}).get("/v1")  # type: ignore[arg-type]
    assert all(low <= got <= low + 0.25 for low, got in zip(least, waits.seconds, strict=True))


async def test_a_403_without_evidence_is_no_rate_limit(http: httpx.AsyncClient) -> None:
    facts = RateLimit(statuses=(403, 429), remaining_header="X-Remaining")
    with respx.mock:
        respx.get(f"{BASE}/v1").respond(403, headers={"x-remaining": "17"})
        with pytest.raises(ProviderRejected):
            await api(http, facts={"rate_limit": facts}).get("/v1")
