"""Connecting in the browser, and every way in which a callback can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from aura_control.db.models import ConnectionState
from tests.control.connections.conftest import Control, query_of
from tests.control.connections.provider import Fault, answers, unreachable

COOKIE = "aura-oauth"


async def test_a_connection_is_made(control: Control) -> None:
    answer = await control.connect()
    assert answer.status_code == 200
    assert "Acme is connected" in answer.text
    connection = await control.connection()
    assert connection.state is ConnectionState.CONNECTED
    assert connection.account_id == "ada@example.org"
    assert connection.metadata == {"email": "ada@example.org"}
    secrets = await control.secrets()
    assert secrets.keys() == {"access_token", "refresh_token"}
    assert all(control.provider.knows(token) for token in secrets.values())


async def test_what_is_stored_is_sealed(control: Control) -> None:
    await control.connect()
    secrets = await control.secrets()
    tokens = (await control.connection()).envelope()
    stored = json.dumps([tokens.access_token, tokens.refresh_token])
    assert all(value not in stored for value in secrets.values())


async def test_the_redirect_asks_as_the_manifest_says(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
    asked = query_of(left.headers["location"])
    assert left.headers["location"].startswith("https://auth.acme.example/authorize?")
    assert asked["redirect_uri"] == "http://127.0.0.1:8700/api/integrations/acme/callback"
    assert asked["scope"] == "mail.read mail.send"
    assert asked["code_challenge_method"] == "S256"
    assert asked["client_id"] == "aura"
    cookie = left.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "the-client-secret" not in left.headers["location"]


async def test_tabs_of_one_browser_share_the_cookie_and_both_arrive(control: Control) -> None:
    async with control.client(control.ada) as browser:
        first = await browser.get("/api/integrations/acme")
        second = await browser.get("/api/integrations/brittle")
        for provider, left in (("brittle", second), ("acme", first)):
            back = control.provider.consent(left.headers["location"])
            answer = await browser.get(f"/api/integrations/{provider}/callback", params=back)
            assert answer.status_code == 200


Attack = Callable[[dict[str, str]], dict[str, str]]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        pytest.param(lambda p: {**p, "state": "x" * 43}, "unknown", id="foreign state"),
        pytest.param(lambda p: {**p, "state": ""}, "no state", id="empty state"),
        pytest.param(lambda p: {**p, "state": "x" * 5000}, "cannot be used", id="endless state"),
        pytest.param(lambda p: {"code": p["code"]}, "no state", id="no state"),
        pytest.param(
            lambda p: {**p, "iss": "https://evil.example"}, "another provider", id="wrong issuer"
        ),
        pytest.param(
            lambda p: {k: v for k, v in p.items() if k != "iss"}, "who it is", id="no issuer"
        ),
        pytest.param(
            lambda p: {k: v for k, v in p.items() if k != "code"}, "no authorization code",
            id="no code",
        ),
        pytest.param(
            lambda p: {**p, "error": "access_denied"}, "did not allow", id="denied, with a code"
        ),
    ],
)  # fmt: skip
async def test_a_wrong_callback_calls_no_token_endpoint(
    control: Control, attack: Attack, message: str
) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = attack(control.provider.consent(left.headers["location"]))
        answer = await browser.get("/api/integrations/acme/callback", params=back)
    assert 400 <= answer.status_code < 500
    assert message in answer.text
    assert control.provider.calls == []
    assert await control.listed() == []


async def test_a_state_given_twice_is_refused(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        query = httpx.QueryParams([*back.items(), ("state", back["state"])])
        answer = await browser.get("/api/integrations/acme/callback", params=query)
    assert answer.status_code == 400
    assert control.provider.calls == []


async def test_a_state_works_once(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        first = await browser.get("/api/integrations/acme/callback", params=back)
        again = await browser.get("/api/integrations/acme/callback", params=back)
    assert (first.status_code, again.status_code) == (200, 422)
    assert control.provider.count("/token") == 1


async def test_a_state_expires(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        control.clock.forward(minutes=11)
        answer = await browser.get("/api/integrations/acme/callback", params=back)
    assert answer.status_code == 422
    assert control.provider.calls == []


@pytest.mark.parametrize("cookie", [None, "y" * 43, ""])
async def test_another_browser_cannot_finish_and_the_state_is_spent(
    control: Control, cookie: str | None
) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        async with control.client() as other:
            if cookie is not None:
                other.cookies.set(COOKIE, cookie)
            stolen = await other.get("/api/integrations/acme/callback", params=back)
        assert stolen.status_code == 422
        assert "another browser" in stolen.text
        again = await browser.get("/api/integrations/acme/callback", params=back)
        assert again.status_code == 422
    assert control.provider.calls == []


async def test_a_state_belongs_to_its_provider(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        answer = await browser.get("/api/integrations/brittle/callback", params=back)
    assert answer.status_code == 422
    assert control.provider.calls == []


async def test_what_the_provider_says_is_not_echoed(control: Control) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = {
            "state": query_of(left.headers["location"])["state"],
            "iss": "https://auth.acme.example",
            "error": "<script>alert(1)</script>",
            "error_description": "Call 0900-evil now",
        }
        answer = await browser.get("/api/integrations/acme/callback", params=back)
    assert "alert(1)" not in answer.text
    assert "0900" not in answer.text
    assert control.provider.calls == []


async def test_the_page_is_locked_down(control: Control) -> None:
    answer = await control.connect()
    policy = answer.headers["content-security-policy"]
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.text.count(f'nonce="{nonce}"') == 2
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert 'data-origin="http://127.0.0.1:8700"' in answer.text
    assert "postMessage" in answer.text
    assert ', "*")' not in answer.text
    secrets = await control.secrets()
    assert all(value not in answer.text for value in secrets.values())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (unreachable, "did not answer"),
        (answers(400, error="invalid_grant"), "did not accept the authorization code"),
        (answers(500), "Acme"),
    ],
    ids=["unreachable", "wrong code", "broken"],
)
async def test_an_exchange_that_fails_leaves_nothing(
    control: Control, fault: Fault, said: str
) -> None:
    async with control.client(control.ada) as browser:
        left = await browser.get("/api/integrations/acme")
        back = control.provider.consent(left.headers["location"])
        control.provider.faults.append(fault)
        answer = await browser.get("/api/integrations/acme/callback", params=back)
    assert answer.status_code in (422, 502)
    assert "Not connected" in answer.text
    assert said in answer.text
    assert await control.listed() == []


async def test_another_account_is_refused_and_the_old_one_stays(control: Control) -> None:
    await control.connect(account="ada@example.org")
    before = await control.connection()
    answer = await control.connect(account="mallory@example.org")
    assert answer.status_code == 409
    assert "another account" in answer.text
    after = await control.connection()
    assert (after.revision, after.account_id) == (before.revision, "ada@example.org")
    kept = await control.secrets()
    assert all(control.provider.knows(token) for token in kept.values())
    # What was issued for the other account is of no use to anybody.
    assert control.provider.alive == len(kept)


async def test_tokens_of_an_account_that_somebody_else_connected_are_not_revoked(
    control: Control,
) -> None:
    await control.connect(account="ada@example.org")
    await control.connect(owner=control.eve, account="eve@example.org")
    alive = control.provider.alive
    assert (await control.connect(account="eve@example.org")).status_code == 409
    assert control.provider.count("/revoke") == 0
    assert control.provider.alive == alive + 2


async def test_a_provider_that_revokes_nothing_hides_no_refusal(control: Control) -> None:
    await control.connect(account="ada@example.org")
    control.provider.revocable = False
    answer = await control.connect(account="mallory@example.org")
    assert answer.status_code == 409
    assert "another account" in answer.text


async def test_a_refresh_token_is_kept_when_none_comes_back(control: Control) -> None:
    await control.connect()
    old = await control.secrets()
    control.provider.gives_refresh_token = False
    assert (await control.connect()).status_code == 200
    new = await control.secrets()
    assert new["refresh_token"] == old["refresh_token"]
    assert new["access_token"] != old["access_token"]


async def test_after_disconnecting_another_account_is_welcome(control: Control) -> None:
    await control.connect(account="ada@example.org")
    async with control.client(control.ada) as caller:
        assert (await caller.delete("/api/integrations/acme")).status_code == 200
    assert (await control.connect(account="other@example.org")).status_code == 200
    assert (await control.connection()).account_id == "other@example.org"


async def test_an_agent_may_use_the_connection_at_once(control: Control) -> None:
    async with control.services.database.transaction() as tx:
        agents = {
            owner.user_id: await tx.agents.create(
                tenant_id=owner.tenant_id,
                user_id=owner.user_id,
                name="Helper",
                compute="local",
                runtime="basic",
                persona={},
                permissions={},
                config={},
                actor="system",
            )
            for owner in (control.ada, control.eve)
        }
    mine, foreign = agents[control.ada.user_id], agents[control.eve.user_id]
    assert (await control.connect(query=f"?agent_id={mine.id}")).status_code == 200
    async with control.services.database.reading() as tx:
        enabled = await tx.agents.providers(tenant_id=control.ada.tenant_id, agent_id=mine.id)
    assert list(enabled) == ["acme"]
    async with control.client(control.ada) as caller:
        refused = await caller.get(f"/api/integrations/acme?agent_id={foreign.id}")
    assert refused.status_code == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("subdomain=ada", 302),
        ("", 422),
        ("subdomain=ada.evil", 422),
        ("subdomain=ada@evil", 422),
        ("subdomain=ada%2f..", 422),
        ("subdomain=ada%23", 422),
        ("subdomain=ada&region=127.0.0.1", 422),
        ("subdomain=ada&region=169.254.169.254", 422),
        ("subdomain=ada&region=10.0.0.1:80", 422),
        ("subdomain=ada&region=2130706433", 422),
        ("subdomain=ada&region=db.internal", 422),
        ("subdomain=ada&region=us.example.org", 302),
        ("subdomain=ada&other=1", 422),
        ("subdomain=ada&subdomain=eve", 400),
        ("subdomain=ada&auth=nope", 422),
    ],
)
async def test_a_templated_provider_takes_checked_values(
    control: Control, query: str, status: int
) -> None:
    async with control.client(control.ada) as browser:
        answer = await browser.get(f"/api/integrations/tenanted?{query}")
    assert answer.status_code == status, answer.text
    if status == 302:
        assert answer.headers["location"].startswith("https://ada.acme.example/authorize?")


async def test_a_provider_without_the_operators_client_says_so(control: Control) -> None:
    async with control.client(control.ada) as browser:
        answer = await browser.get("/api/integrations/unset")
    assert answer.status_code == 503
    assert "UNSET_CLIENT_ID" in answer.json()["hint"]
