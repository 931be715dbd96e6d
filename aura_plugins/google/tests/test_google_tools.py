"""Google's tools against its API as documented."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from aura_core.adapter import Context
from aura_core.api import BoundApi
from aura_core.credentials import bind
from aura_core.errors import InvalidInput
from aura_core.registry import Integration

GMAIL = "https://gmail.googleapis.com/gmail/v1/users/me"
CALENDAR = "https://www.googleapis.com/calendar/v3/calendars"
TOKEN = "ya29.test-token"


async def run(google: Integration, ctx: Context, name: str, **arguments: Any) -> Any:
    api = BoundApi(bind(ctx.manifest, ctx.method, {}), {"access_token": SecretStr(TOKEN)}, ctx.http)
    return await google.adapter.execute_chat_tool(google.tools, name, arguments, api)


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
