"""Google as the manifest declares it, and its tools against Google's API as documented."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import Context, OAuthClientSettings
from aura_core.api import BoundApi, http_client
from aura_core.credentials import CredentialEnvelope, bind
from aura_core.errors import InvalidInput, PermissionDenied, RateLimited
from aura_core.manifest import OAuth2Auth
from aura_core.permissions import AgentPermissions
from aura_core.registry import Integration, Registry

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GMAIL = "https://gmail.googleapis.com/gmail/v1/users/me"
CALENDAR = "https://www.googleapis.com/calendar/v3/calendars"
TOKEN = "ya29.test-token"


@pytest.fixture(scope="module")
def google() -> Integration:
    return Registry.discover().open("google")


@pytest.fixture
async def ctx(google: Integration) -> AsyncIterator[Context]:
    async with http_client() as http:
        yield Context(
            manifest=google.manifest,
            method=google.manifest.auth_method(),
            http=http,
            now=lambda: NOW,
            client=OAuthClientSettings(client_id="cid", client_secret=SecretStr("client-secret")),
        )


def api(ctx: Context, *scopes: str, **options: Any) -> BoundApi:
    return BoundApi(
        bind(ctx.manifest, ctx.method, {}),
        {"access_token": SecretStr(TOKEN)},
        ctx.http,
        permissions=AgentPermissions(scopes=frozenset(scopes)) if scopes else None,
        **options,
    )


async def run(google: Integration, ctx: Context, name: str, **arguments: Any) -> Any:
    return await google.adapter.execute_chat_tool(google.tools, name, arguments, api(ctx))


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


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


MESSAGE = {
    "id": "m1",
    "threadId": "t1",
    "labelIds": ["INBOX"],
    "snippet": "Dear all",
    "payload": {
        "mimeType": "multipart/mixed",
        "headers": [
            {"name": "From", "value": "Anna <anna@example.com>"},
            {"name": "Subject", "value": "Lunch"},
            {"name": "Message-Id", "value": "<1@mail.example>"},
            {"name": "X-Other", "value": "no"},
        ],
        "parts": [
            {
                "mimeType": "multipart/alternative",
                "parts": [
                    {"mimeType": "text/plain", "body": {"data": encoded("Dear all, lünch?")}},
                    {"mimeType": "text/html", "body": {"data": encoded("<p>Dear all</p>")}},
                ],
            },
            {"mimeType": "application/pdf", "filename": "menu.pdf", "body": {"size": 3}},
        ],
    },
}


async def test_gmail_search(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    found = respx_mock.get(f"{GMAIL}/messages").respond(
        json={"messages": [{"id": "m1", "threadId": "t1"}], "nextPageToken": "x"}
    )
    respx_mock.get(f"{GMAIL}/messages/m1", params={"format": "metadata"}).respond(json=MESSAGE)
    answer = await run(google, ctx, "gmail_search", query="from:anna & is:unread", limit=1)
    assert found.calls.last.request.url.params["q"] == "from:anna & is:unread"
    assert answer == {
        "messages": [
            {
                "id": "m1",
                "thread_id": "t1",
                "from": "Anna <anna@example.com>",
                "subject": "Lunch",
                "message_id": "<1@mail.example>",
                "snippet": "Dear all",
            }
        ],
        "more": True,
    }


async def test_gmail_search_without_a_hit(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get(f"{GMAIL}/messages").respond(json={"resultSizeEstimate": 0})
    assert await run(google, ctx, "gmail_search", query="x") == {"messages": [], "more": False}


async def test_gmail_read(google: Integration, ctx: Context, respx_mock: respx.MockRouter) -> None:
    respx_mock.get(f"{GMAIL}/messages/m1").respond(json=MESSAGE)
    answer = await run(google, ctx, "gmail_read", message_id="m1")
    assert answer["text"] == "Dear all, lünch?"
    assert answer["attachments"] == [{"name": "menu.pdf", "type": "application/pdf"}]
    assert answer["labels"] == ["INBOX"]
    assert answer["cut"] is False


async def test_gmail_read_of_html_alone(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    html = "<style>p{}</style><p>Hello&nbsp;<b>you</b></p><script>x()</script><p>Bye" + "!" * 200
    payload = {"mimeType": "text/html", "body": {"data": encoded(html)}}
    respx_mock.get(f"{GMAIL}/messages/m1").respond(json={"id": "m1", "payload": payload})
    answer = await run(google, ctx, "gmail_read", message_id="m1", max_characters=100)
    assert answer["text"].startswith("Hello you\nBye!")
    assert len(answer["text"]) == 100
    assert answer["cut"] is True


def sent_message(request: httpx.Request) -> EmailMessage:
    raw = base64.urlsafe_b64decode(json.loads(request.content)["raw"])
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


async def test_gmail_send(google: Integration, ctx: Context, respx_mock: respx.MockRouter) -> None:
    route = respx_mock.post(f"{GMAIL}/messages/send").respond(json={"id": "m2", "threadId": "t2"})
    answer = await run(
        google,
        ctx,
        "gmail_send",
        to=["bob@example.com", "eve@example.com"],
        cc=["cy@example.com"],
        subject="Grüße – " + "long " * 30,
        body="Hallo Bob,\n\nschön.\n.\nFrom here",
    )
    assert answer == {"id": "m2", "thread_id": "t2"}
    message = sent_message(route.calls.last.request)
    assert message["To"] == "bob@example.com, eve@example.com"
    assert message["Cc"] == "cy@example.com"
    assert message["Subject"] == "Grüße – " + ("long " * 30).strip() + " "
    assert message.get_content().replace("\r\n", "\n") == "Hallo Bob,\n\nschön.\n.\nFrom here\n"


async def test_gmail_send_as_an_answer(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get(f"{GMAIL}/messages/m1").respond(json=MESSAGE)
    route = respx_mock.post(f"{GMAIL}/messages/send").respond(json={"id": "m2"})
    arguments = {"to": ["a@example.com"], "subject": "Re: Lunch", "body": "Yes"}
    await run(google, ctx, "gmail_send", reply_to_message_id="m1", **arguments)
    message = sent_message(route.calls.last.request)
    assert message["In-Reply-To"] == message["References"] == "<1@mail.example>"
    assert json.loads(route.calls.last.request.content)["threadId"] == "t1"


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "Hi\r\nBcc: all@example.com"},
        {"subject": "Hi\nX: y"},
        {"subject": "Hi\x00"},
        {"subject": "Hi\u2028X"},
        {"to": ["bob@example.com\r\nBcc: all@example.com"]},
        {"to": ["bob@example.com, eve@example.com"]},
        {"to": ["Bob <bob@example.com>"]},
        {"to": []},
        {"cc": ["not an address"]},
        {"bcc": ["a@b\n"]},
        {"reply_to_message_id": "../../x"},
    ],
)
async def test_header_injection_is_refused(
    google: Integration, ctx: Context, changed: dict[str, Any]
) -> None:
    arguments = {"to": ["bob@example.com"], "subject": "Hi", "body": "text", **changed}
    with pytest.raises(InvalidInput):
        await run(google, ctx, "gmail_send", **arguments)


async def test_calendar_list_events(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.get(f"{CALENDAR}/en.usa%23holiday%40group.example/events").respond(
        json={
            "timeZone": "Europe/Berlin",
            "items": [
                {
                    "id": "e1",
                    "summary": "Lunch",
                    "start": {"dateTime": "2026-03-02T12:00:00+01:00"},
                    "end": {"dateTime": "2026-03-02T13:00:00+01:00"},
                    "attendees": [{"email": "a@example.com"}, {"displayName": "room"}],
                    "kind": "calendar#event",
                },
                {"id": "e2", "start": {"date": "2026-03-03"}, "end": {"date": "2026-03-04"}},
            ],
        }
    )
    answer = await run(
        google,
        ctx,
        "calendar_list_events",
        calendar_id="en.usa#holiday@group.example",
        time_min="2026-03-01T00:00:00+01:00",
        time_max="2026-03-08T00:00:00Z",
        query="lunch",
    )
    params = route.calls.last.request.url.params
    assert params["timeMin"] == "2026-03-01T00:00:00+01:00"
    assert params["timeMax"] == "2026-03-08T00:00:00+00:00"
    assert (params["singleEvents"], params["orderBy"], params["q"]) == (
        "true",
        "startTime",
        "lunch",
    )
    assert answer["events"][0]["attendees"] == ["a@example.com"]
    assert answer["events"][0]["start"] == "2026-03-02T12:00:00+01:00"
    assert answer["events"][1]["start"] == "2026-03-03"
    assert answer["more"] is False


async def test_calendar_create_event(
    google: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.post(f"{CALENDAR}/primary/events").mock(
        side_effect=lambda request: httpx.Response(
            200, json={"id": "e9", **json.loads(request.content)}
        )
    )
    answer = await run(
        google,
        ctx,
        "calendar_create_event",
        summary="Lunch",
        start="2026-03-02T12:00:00+01:00",
        end="2026-03-02T13:00:00+01:00",
        attendees=["a@example.com"],
    )
    request = route.calls.last.request
    assert request.url.params["sendUpdates"] == "all"
    assert json.loads(request.content)["start"] == {"dateTime": "2026-03-02T12:00:00+01:00"}
    assert answer["id"] == "e9"
    assert answer["attendees"] == ["a@example.com"]


async def test_times_without_an_offset_are_refused(google: Integration, ctx: Context) -> None:
    with pytest.raises(InvalidInput) as caught:
        await run(
            google,
            ctx,
            "calendar_create_event",
            summary="x",
            start="2026-03-02T12:00:00",
            end="2026-03-02T13:00:00Z",
        )
    assert set(caught.value.fields) == {"start"}


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
