"""Google as the manifest declares it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import Context
from aura_core.api import BoundApi
from aura_core.credentials import CredentialEnvelope, bind
from aura_core.errors import PermissionDenied, RateLimited
from aura_core.manifest import OAuth2Auth
from aura_core.permissions import AgentPermissions
from aura_core.registry import Integration

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GMAIL = "https://gmail.googleapis.com/gmail/v1/users/me"
TOKEN = "ya29.test-token"


def api(ctx: Context, *scopes: str, **options: Any) -> BoundApi:
    return BoundApi(
        bind(ctx.manifest, ctx.method, {}),
        {"access_token": SecretStr(TOKEN)},
        ctx.http,
        permissions=AgentPermissions(scopes=frozenset(scopes)) if scopes else None,
        **options,
    )


def test_the_facts(google: Integration) -> None:
    """What the project's records say of Google: endpoints, semantics, names of files."""
    manifest = google.manifest
    method = manifest.auth_method()
    assert isinstance(method, OAuth2Auth)
    prefix = "https://www.googleapis.com/auth/"
    facts = {
        "authorize_url": (method.authorization.url, "https://accounts.google.com/o/oauth2/v2/auth"),
        "token_url": (method.token.url, "https://oauth2.googleapis.com/token"),
        "userinfo_url": (
            method.userinfo and method.userinfo.url,
            "https://www.googleapis.com/oauth2/v2/userinfo",
        ),
        "revoke_url": (
            method.revocation and method.revocation.url,
            "https://oauth2.googleapis.com/revoke",
        ),
        "client_id_env": (method.client.id_env, "GOOGLE_CLIENT_ID"),
        "client_secret_env": (method.client.secret_env, "GOOGLE_CLIENT_SECRET"),
        "offline access": (method.authorization.params.get("access_type"), "offline"),
        "forced consent": (method.authorization.params.get("prompt"), "consent"),
        "pkce": (method.authorization.pkce, "send"),
        "client authentication": (
            [method.token.auth, *method.token.also_accepts],
            ["client_secret_post", "client_secret_basic"],
        ),
        "lifetime": (method.token.response.assumed_lifetime, 3599),
        "refresh token": (method.refresh.rotation, "none"),
        "old refresh token kept": (method.refresh.keeps_old_if_absent, True),
        "revocation cascades": (method.revocation and method.revocation.cascades, True),
        "quota errors": (manifest.api.rate_limit.statuses, (429, 403)),
        "quota reason": ("rateLimitExceeded" in manifest.api.rate_limit.codes, True),
        "backoff": (manifest.api.rate_limit.backoff, "exponential"),
        "hosts": (set(manifest.hosts), {"www.googleapis.com", "gmail.googleapis.com"}),
        "metadata": (
            set(method.userinfo.metadata) if method.userinfo else None,
            {"email", "name", "picture"},
        ),
        "skill": (manifest.skill and manifest.skill.dir_name, "google-workspace-skill"),
        "command": (manifest.skill and manifest.skill.command, "google-workspace"),
        "tools": (len(google.tools), 5),
    }
    assert {name: found for name, (found, _) in facts.items()} == {
        name: wanted for name, (_, wanted) in facts.items()
    }
    asked = {scope.removeprefix(prefix) for scope in method.scopes}
    assert {"calendar.readonly", "calendar.events", "gmail.readonly", "gmail.send"} <= asked


async def test_connecting_asks_for_offline_access_and_stores_whose_account_it_is(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    url = httpx.URL(
        oauth.authorization_url(ctx, redirect_uri="https://a/cb", state="s", verifier="v" * 64)
    )
    assert url.params["access_type"] == "offline"
    assert url.params["prompt"] == "consent"
    assert url.params["code_challenge_method"] == "S256"

    granted = "https://www.googleapis.com/auth/gmail.readonly"
    respx_mock.post("https://oauth2.googleapis.com/token").respond(
        json={"access_token": TOKEN, "refresh_token": "1//r", "expires_in": 3599, "scope": granted}
    )
    userinfo = respx_mock.get("https://www.googleapis.com/oauth2/v2/userinfo").respond(
        json={"id": "117", "email": "a@b.example", "name": "Anna", "picture": "https://p.example"}
    )
    tokens = await oauth.exchange_code(
        ctx,
        code="c",
        redirect_uri="https://a/cb",
        verifier="v" * 64,
        callback_params={"iss": "https://accounts.google.com"},
    )
    connected = await google.adapter.process_oauth_tokens(ctx, tokens)
    assert userinfo.calls.last.request.headers["authorization"] == f"Bearer {TOKEN}"
    assert connected.metadata == {
        "email": "a@b.example", "name": "Anna", "picture": "https://p.example"
    }  # fmt: skip
    assert connected.account_id == "117"
    assert connected.scopes == (granted,)
    offered = google.adapter.get_chat_tools(
        google.tools, manifest=ctx.manifest, granted=connected.scopes
    )
    assert [tool["function"]["name"] for tool in offered] == ["gmail_search", "gmail_read"]


async def test_disconnecting_revokes_the_grant_once(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.post("https://oauth2.googleapis.com/revoke").respond(json={})
    held = CredentialEnvelope(
        integration_id="c",
        user_id="u",
        provider="google",
        auth_id="oauth2",
        secrets={"access_token": SecretStr(TOKEN), "refresh_token": SecretStr("1//r")},
    )
    receipt = await google.adapter.on_disconnect(ctx, held)
    assert [(line.token, line.outcome) for line in receipt] == [
        ("refresh_token", "revoked"),
        ("access_token", "revoked"),
    ]
    assert route.call_count == 1
    assert route.calls.last.request.content.startswith(b"token=1%2F%2Fr")
    route.respond(400, json={"error": "invalid_token", "error_description": "Token expired"})
    receipt = await google.adapter.on_disconnect(ctx, held)
    assert {line.outcome for line in receipt} == {"already_invalid"}


@pytest.mark.parametrize(
    ("method", "url", "scope"),
    [
        ("GET", f"{GMAIL}/messages", "email:read"),
        ("GET", f"{GMAIL}/messages/1/attachments/2", "email:read"),
        ("GET", f"{GMAIL}/threads/1", "email:read"),
        ("POST", f"{GMAIL}/messages/send", "email:send"),
        ("POST", f"{GMAIL}/drafts/send", "email:send"),
        ("POST", GMAIL.replace("com/", "com/upload/") + "/messages/send", "email:send"),
        ("GET", f"{GMAIL}/labels", "email:read"),
        ("GET", f"{GMAIL}/profile", "email:read"),
        ("POST", f"{GMAIL}/messages/1/modify", "api:outbound"),
        ("DELETE", f"{GMAIL}/messages/1", "api:outbound"),
        ("GET", f"{GMAIL}/settings/forwardingAddresses", "api:outbound"),
        ("POST", "https://gmail.googleapis.com/batch/gmail/v1", "api:outbound"),
        ("GET", "/calendar/v3/users/me/calendarList", "calendar:read"),
        ("POST", "/calendar/v3/freeBusy", "calendar:read"),
        ("POST", "/calendar/v3/calendars/primary/events", "calendar:write"),
        ("PATCH", "/calendar/v3/calendars/primary/events/1", "calendar:write"),
        ("POST", "/calendar/v3/calendars/primary/acl", "api:outbound"),
        ("POST", "/gmail/v1/users/me/messages/send", "api:outbound"),
    ],
)
async def test_each_request_needs_its_scope(
    ctx: Context, respx_mock: respx.MockRouter, method: str, url: str, scope: str
) -> None:
    route = respx_mock.route(method=method).respond(json={})
    await api(ctx, scope).send(method, url)
    every = {"email:read", "email:send", "calendar:read", "calendar:write", "api:outbound"}
    with pytest.raises(PermissionDenied) as caught:
        await api(ctx, *(every - {scope})).send(method, url)
    assert caught.value.rule == f"scope:{scope}"
    assert route.call_count == 1


async def test_quota_errors_are_rate_limits_and_other_403s_are_not(
    ctx: Context, respx_mock: respx.MockRouter
) -> None:
    def refusal(reason: str) -> httpx.Response:
        error = {
            "code": 403,
            "message": "Retry after 2026-03-01T12:00:40.000Z",
            "errors": [{"reason": reason}],
        }
        return httpx.Response(403, json={"error": error})

    route = respx_mock.get(f"{GMAIL}/messages")
    route.mock(return_value=refusal("userRateLimitExceeded"))
    with pytest.raises(RateLimited) as caught:
        await api(ctx, now=lambda: NOW).get(f"{GMAIL}/messages")
    assert caught.value.retry_after == 40
    route.mock(return_value=refusal("insufficientPermissions"))
    with pytest.raises(Exception, match="status 403") as other:
        await api(ctx).get(f"{GMAIL}/messages")
    assert not isinstance(other.value, RateLimited)


async def test_machines_get_the_access_token_alone(google: Integration, ctx: Context) -> None:
    held = CredentialEnvelope(
        integration_id="c",
        user_id="u",
        provider="google",
        auth_id="oauth2",
        secrets={"access_token": SecretStr(TOKEN), "refresh_token": SecretStr("1//refresh")},
        token_expiry=NOW,
        scopes=("s",),
    )
    payload = google.adapter.build_vm_credential_payload(ctx, held, connection_revision=7)
    assert payload is not None
    text = payload.model_dump_json()
    assert TOKEN in text
    assert "1//refresh" not in text
    assert "client-secret" not in text
    assert payload.connection_revision == 7
    assert set(payload.binding.hosts) == set(ctx.manifest.hosts)
