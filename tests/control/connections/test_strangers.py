"""Other tenants, and input that no client of ours sends. What every route has to withstand is in
``tests/control/surface``; here is what is particular to connections."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.control.connections.conftest import Control


async def test_a_revoked_token_is_no_token(control: Control) -> None:
    async with control.services.database.transaction() as tx:
        (token,) = await tx.tokens.list(
            tenant_id=control.ada.tenant_id, user_id=control.ada.user_id
        )
        await tx.tokens.revoke(tenant_id=control.ada.tenant_id, token_id=token.id, actor="system")
    async with control.client(control.ada) as caller:
        assert (await caller.get("/api/integrations")).status_code == 401


async def test_another_tenant_finds_nothing_of_it(control: Control) -> None:
    await control.connect()
    before = await control.connection()
    async with control.client(control.eve) as eve:
        assert (await eve.get("/api/integrations")).json() == {"integrations": []}
        for method, path in (
            ("POST", "/api/integrations/acme/validate"),
            ("DELETE", "/api/integrations/acme"),
        ):
            answer = await eve.request(method, path)
            assert answer.status_code == 404
    assert await control.connection() == before
    assert control.provider.count("/revoke") == 0


async def test_two_tenants_connect_the_same_provider_apart(control: Control) -> None:
    await control.connect()
    await control.connect(owner=control.eve, account="eve@example.org")
    assert (await control.connection()).account_id == "ada@example.org"
    assert (await control.connection(owner=control.eve)).account_id == "eve@example.org"
    async with control.client(control.eve) as eve:
        await eve.delete("/api/integrations/acme")
    assert [line["state"] for line in await control.listed()] == ["connected"]


async def test_a_tenant_cannot_finish_what_another_began(control: Control) -> None:
    async with control.client(control.ada) as ada, control.client(control.eve) as eve:
        left = await ada.get("/api/integrations/acme")
        await eve.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        answer = await eve.get("/api/integrations/acme/callback", params=back)
    assert answer.status_code == 422
    assert await control.listed() == []
    assert await control.listed(control.eve) == []


JSON = {"content-type": "application/json"}

BAD: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/api/integrations/keyed", {}, 422),
    ("POST", "/api/integrations/acme", {"json": {"api_key": "x"}}, 422),
    ("POST", "/api/integrations/keyed", {"content": b'{"a": "\\ud800"}', "headers": JSON}, 422),
    ("POST", "/api/integrations/keyed/link", {}, 422),
    ("POST", "/api/integrations/keyed/validate", {}, 404),
    ("DELETE", "/api/integrations/keyed", {}, 404),
    ("PATCH", "/api/integrations/acme", {}, 405),
    ("GET", "/api/nothing", {}, 404),
    ("POST", "/api/providers", {}, 405),
]


async def test_bad_input_changes_nothing(control: Control) -> None:
    wrong = []
    async with control.client(control.ada) as caller:
        for method, path, request, status in BAD:
            answer = await caller.request(method, path, **request)
            problem = answer.json()
            if answer.status_code != status or problem["status"] != status:
                wrong.append((method, path[:80], status, answer.text))
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["request_id"] == answer.headers["x-request-id"]
    assert wrong == []
    assert control.provider.calls == []
    assert await control.listed() == []


# What a caller can send as JSON, near to what the routes expect.
NAMES = st.sampled_from(["fields", "auth", "agent_id", "variables", "api_key", "\x00", "é"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=VALUES, path=st.sampled_from(["keyed", "keyed/link", "acme/link", "tenanted/link"]))
async def test_no_body_is_an_error_of_ours(control: Control, body: Any, path: str) -> None:
    async with control.client(control.ada) as caller:
        answer = await caller.post(
            f"/api/integrations/{path}", content=json.dumps(body), headers=JSON
        )
    assert answer.status_code in (201, 400, 404, 422), answer.text


async def test_a_bug_is_a_problem_without_its_text(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(control.services.registry, "listings", broken)
    async with control.client(control.ada) as caller:
        answer = await caller.get("/api/providers")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "swordfish" not in answer.text


async def test_a_request_id_is_kept_if_it_is_one(control: Control) -> None:
    async with control.client() as caller:
        kept = await caller.get("/healthz", headers={"X-Request-ID": "abcdef-123456"})
        made = await caller.get("/healthz", headers={"X-Request-ID": "a b\tc" * 20})
    assert kept.headers["x-request-id"] == "abcdef-123456"
    assert len(made.headers["x-request-id"]) == 32


async def test_health_and_metrics(control: Control) -> None:
    await control.connect()
    async with control.client() as caller:
        assert (await caller.get("/healthz")).json() == {"status": "ok"}
        assert (await caller.get("/readyz")).status_code == 200
        answer: httpx.Response = await caller.get("/metrics")
    assert 'aura_connections{state="connected"} 1.0' in answer.text
    assert "aura_deliveries_pending 0.0" in answer.text
    assert 'route="/api/integrations/{provider}"' in answer.text
    assert control.ada.user_id not in answer.text
    assert "ada@example.org" not in answer.text
