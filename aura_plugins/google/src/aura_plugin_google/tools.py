"""Gmail and Google Calendar as tools. The reference of the calls: developers.google.com/gmail/api
and developers.google.com/workspace/calendar/api."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from html.parser import HTMLParser
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AwareDatetime, Field

from aura_core.tools import ToolApi, tool

__all__ = [
    "calendar_create_event",
    "calendar_list_events",
    "gmail_read",
    "gmail_search",
    "gmail_send",
]

GMAIL = "https://gmail.googleapis.com/gmail/v1/users/me"
CALENDAR = "https://www.googleapis.com/calendar/v3/calendars"
SHOWN = ("From", "To", "Cc", "Subject", "Date", "Message-ID")

MessageId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Address = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
        max_length=254,
    ),
]
# A line break would end the header and begin one of the sender's choosing (Bcc, Reply-To).
HeaderText = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$", max_length=998)]
CalendarId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@#+-]{1,256}$")]


@tool
async def gmail_search(
    api: ToolApi,
    query: Annotated[
        str, Field(description="e.g. 'from:anna is:unread newer_than:7d'", max_length=1000)
    ],
    limit: Annotated[int, Field(description="how many messages at most", ge=1, le=25)] = 10,
) -> Any:
    """Search the user's mail with Gmail's search syntax."""
    found = await api.get(f"{GMAIL}/messages", query={"q": query, "maxResults": limit})
    ids = [message["id"] for message in found.get("messages", ())][:limit]
    messages = await asyncio.gather(*(_summary(api, message) for message in ids))
    return {"messages": messages, "more": "nextPageToken" in found}


@tool
async def gmail_read(
    api: ToolApi,
    message_id: Annotated[MessageId, Field(description="id from gmail_search")],
    max_characters: Annotated[
        int, Field(description="where to cut the text", ge=100, le=100_000)
    ] = 20_000,
) -> Any:
    """Read one message: its headers, its text and the names of its attachments."""
    message = await api.get(f"{GMAIL}/messages/{message_id}", query={"format": "full"})
    payload = message.get("payload", {})
    text = _text(payload)
    return {
        "id": message["id"],
        "thread_id": message.get("threadId"),
        **_headers(payload),
        "labels": message.get("labelIds", []),
        "text": text[:max_characters],
        "cut": len(text) > max_characters,
        "attachments": [
            {"name": part["filename"], "type": part.get("mimeType")}
            for part in _parts(payload)
            if part.get("filename")
        ],
    }


@tool
async def gmail_send(
    api: ToolApi,
    to: Annotated[list[Address], Field(description="addresses", min_length=1, max_length=50)],
    subject: Annotated[HeaderText, Field(description="one line")],
    body: Annotated[str, Field(description="plain text", max_length=500_000)],
    cc: Annotated[list[Address], Field(description="addresses", max_length=50)] = [],  # noqa: B006
    bcc: Annotated[list[Address], Field(description="addresses", max_length=50)] = [],  # noqa: B006
    reply_to_message_id: Annotated[
        MessageId | None, Field(description="the message that this answers")
    ] = None,
) -> Any:
    """Send a plain text message from the user's own address, or reply to one."""
    message = EmailMessage(policy=SMTP)
    for name, addresses in (("To", to), ("Cc", cc), ("Bcc", bcc)):
        if addresses:
            message[name] = ", ".join(addresses)
    message["Subject"] = subject
    message.set_content(body)
    sent: dict[str, str] = {}
    if reply_to_message_id is not None:
        original = await api.get(
            f"{GMAIL}/messages/{reply_to_message_id}",
            query={"format": "metadata", "metadataHeaders": ["Message-ID"]},
        )
        answered = "".join(_headers(original.get("payload", {})).get("message_id", "").split())
        if answered:
            message["In-Reply-To"] = message["References"] = answered
        sent["threadId"] = original["threadId"]
    sent["raw"] = base64.urlsafe_b64encode(message.as_bytes()).decode()
    answer = await api.post(f"{GMAIL}/messages/send", json=sent)
    return {"id": answer["id"], "thread_id": answer.get("threadId")}


@tool
async def calendar_list_events(
    api: ToolApi,
    time_min: Annotated[
        AwareDatetime | None, Field(description="not before, RFC 3339; now if left out")
    ] = None,
    time_max: Annotated[AwareDatetime | None, Field(description="not after, RFC 3339")] = None,
    query: Annotated[str | None, Field(description="words to look for", max_length=500)] = None,
    limit: Annotated[int, Field(description="how many events at most", ge=1, le=100)] = 20,
    calendar_id: Annotated[CalendarId, Field(description="the user's own if left out")] = "primary",
) -> Any:
    """List events of a calendar in order of time; those to come unless told otherwise."""
    asked: dict[str, str | int] = {
        "singleEvents": "true",
        "orderBy": "startTime",
        "maxResults": limit,
        "timeMin": (time_min or datetime.now(UTC)).isoformat(timespec="seconds"),
    }
    if time_max is not None:
        asked["timeMax"] = time_max.isoformat(timespec="seconds")
    if query:
        asked["q"] = query
    found = await api.get(_events(calendar_id), query=asked)
    return {
        "time_zone": found.get("timeZone"),
        "events": [_event(event) for event in found.get("items", ())],
        "more": "nextPageToken" in found,
    }


@tool
async def calendar_create_event(
    api: ToolApi,
    summary: Annotated[str, Field(description="the title", min_length=1, max_length=1024)],
    start: Annotated[AwareDatetime, Field(description="RFC 3339 with an offset")],
    end: Annotated[AwareDatetime, Field(description="RFC 3339 with an offset, after start")],
    description: Annotated[str, Field(max_length=8192)] = "",
    location: Annotated[str, Field(max_length=1024)] = "",
    attendees: Annotated[
        list[Address], Field(description="addresses to invite", max_length=100)
    ] = [],  # noqa: B006
    calendar_id: Annotated[CalendarId, Field(description="the user's own if left out")] = "primary",
) -> Any:
    """Create an event in a calendar, and invite people if asked."""
    event: dict[str, Any] = {
        "summary": summary,
        "start": {"dateTime": start.isoformat(timespec="seconds")},
        "end": {"dateTime": end.isoformat(timespec="seconds")},
    }
    if description:
        event["description"] = description
    if location:
        event["location"] = location
    if attendees:
        event["attendees"] = [{"email": address} for address in attendees]
    invite = {"sendUpdates": "all" if attendees else "none"}
    return _event(await api.post(_events(calendar_id), query=invite, json=event))


def _events(calendar_id: str) -> str:
    return f"{CALENDAR}/{quote(calendar_id, safe='')}/events"


def _event(event: dict[str, Any]) -> dict[str, Any]:
    kept = ("id", "summary", "description", "location", "status", "htmlLink")
    return {
        **{name: event[name] for name in kept if name in event},
        **{name: _moment(event[name]) for name in ("start", "end") if name in event},
        "attendees": [guest["email"] for guest in event.get("attendees", ()) if "email" in guest],
    }


def _moment(point: dict[str, str]) -> str | None:
    return point.get("dateTime") or point.get("date")


async def _summary(api: ToolApi, message_id: str) -> dict[str, Any]:
    message = await api.get(
        f"{GMAIL}/messages/{quote(message_id, safe='')}",
        query={"format": "metadata", "metadataHeaders": list(SHOWN)},
    )
    return {
        "id": message["id"],
        "thread_id": message.get("threadId"),
        **_headers(message.get("payload", {})),
        "snippet": message.get("snippet", ""),
    }


def _headers(payload: dict[str, Any]) -> dict[str, str]:
    wanted = {name.lower(): name.lower().replace("-", "_") for name in SHOWN}
    return {
        wanted[header["name"].lower()]: header["value"]
        for header in payload.get("headers", ())
        if header["name"].lower() in wanted
    }


def _parts(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All MIME parts, outermost first. A loop, because a hostile message nests without end."""
    waiting = [payload]
    while waiting:
        part = waiting.pop(0)
        yield part
        waiting = list(part.get("parts", ())) + waiting


def _text(payload: dict[str, Any]) -> str:
    """The message's text: its plain part, or its HTML part without the marks."""
    for kind, read in (("text/plain", str), ("text/html", _plain)):
        for part in _parts(payload):
            if part.get("mimeType") == kind and not part.get("filename"):
                data = part.get("body", {}).get("data", "")
                return read(base64.urlsafe_b64decode(data + "==").decode("utf-8", "replace"))
    return ""


def _plain(html: str) -> str:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.words).splitlines())
    return "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    """Collects what a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        if tag in ("br", "p", "div", "tr", "li", "h1", "h2", "h3"):
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style") and self._hidden:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)
