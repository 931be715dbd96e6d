"""Every route with what it does not take: a problem document, the right status, nothing changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from starlette.routing import Route

from aura_control.routes import routes
from tests.control.surface.conftest import Surface
from tests.control.surface.table import TABLE, Entry

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
WRONG_TYPES: list[Any] = [None, True, 7, -1.5, "\ud800", "x" * 5000, [], ["x"], {"x": 1}]

UNREADABLE: list[tuple[bytes, dict[str, str], int]] = [
    (b"{", JSON, 400),
    (b"\xff", JSON, 400),
    (b"[" * 60_000, JSON, 400),
    (b'{"a": NaN}', JSON, 400),
    (b'{"a": 1, "a": 2}', JSON, 400),
    (b" " * 70_000, JSON, 413),
    (b"{}", {"Content-Type": "text/plain"}, 415),
    (b"a=1", FORM, 415),
    (b"[]", JSON, 422),
    (b'"text"', JSON, 422),
    (b"1", JSON, 422),
]

OPEN = {"arguments", "config", "health", "revisions"}
"""What takes objects with any names."""

FITTING: dict[str, tuple[Any, ...]] = {
    "agent_id": (None,),
    "auth": (None,),
    "compute": (None,),
    "runtime": (None,),
    "integrations": (None, []),
    "issued_at": (7,),
    "acks": ([],),
}

QUERIES = [("surprise=1", 422), ("a=1&a=2", 400), ("a=%00", 422), ("a=" + "x" * 5000, 422)]

IDS = ["0" * 32, "nobody", "%00", "%2e%2e", "%2e%2e%2fx", "%ff", "é", "A" * 5000, "-1", "null"]


def test_every_route_is_in_the_table() -> None:
    real = {
        (method, route.path)
        for route in routes()
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert len(routes()) == len(real)
    assert sorted(entry.key for entry in TABLE) == sorted(real)


class Trial:
    """Sends requests, and collects answers that are not what they should be."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.wrong: list[str] = []

    async def send(
        self,
        http: httpx.AsyncClient,
        entry: Entry,
        path: str,
        statuses: tuple[int, ...],
        **request: Any,
    ) -> None:
        answer = await http.request(entry.method, path, **request)
        kind = answer.headers.get("content-type", "")
        if entry.needs == "browser":
            right = kind.startswith("text/html") and "Not connected" in answer.text
        else:
            right = kind == "application/problem+json" and self._is_problem(answer)
        if answer.status_code not in statuses or not right:
            self.wrong.append(
                f"{entry.method} {path[:60]} {str(request)[:90]}: "
                f"{answer.status_code} for {statuses}, {answer.text[:200]}"
            )

    @staticmethod
    def _is_problem(answer: httpx.Response) -> bool:
        problem = answer.json()
        return {"type", "title"} <= problem.keys() and (
            (problem["status"], problem["request_id"])
            == (answer.status_code, answer.headers["x-request-id"])
        )


def bodies_of(entry: Entry) -> Iterator[Any]:
    """Documents that are JSON and not what the route takes."""
    yield {**(entry.good or {}), "surprise": 1}
    yield from entry.wrong
    for name in entry.changed:
        for value in WRONG_TYPES:
            if value not in FITTING.get(name, ()) and not (value == {"x": 1} and name in OPEN):
                yield {**(entry.good or {}), name: value}


async def test_what_cannot_be_read_or_used_changes_nothing(surface: Surface) -> None:
    trial, before = Trial(surface), await surface.everything()
    for entry in TABLE:
        if entry.needs != "token":
            continue
        path = entry.at(agent_id=surface.agent_id)
        for query, status in QUERIES:
            await trial.send(surface.owner, entry, f"{path}?{query}", (status,), **right(entry))
        if entry.takes == "query":
            for params in entry.wrong:
                await trial.send(surface.owner, entry, path, (404, 422), params=params)
            continue
        for content, headers, status in UNREADABLE:
            await trial.send(
                surface.owner, entry, path, (status,), content=content, headers=headers
            )
        for document in bodies_of(entry):
            body = json.dumps(document).encode()
            await trial.send(surface.owner, entry, path, (422, 404), content=body, headers=JSON)
    assert trial.wrong == []
    assert await surface.everything() == before
    assert surface.provider.calls == []


def right(entry: Entry) -> dict[str, Any]:
    """The good body of a route that takes one."""
    return {{"json": "json", "form": "data"}[entry.takes]: entry.good} if entry.body else {}


async def test_what_there_is_not_is_not_found(surface: Surface) -> None:
    trial, before = Trial(surface), await surface.everything()
    for entry in TABLE:
        if entry.needs not in ("token", "browser"):
            continue
        statuses = {404, 405} | (
            {422} if entry.needs == "browser" else set()
        )  # 405: no path of ours
        for wrong in IDS:
            paths = {
                entry.at(agent_id=wrong),
                entry.at(agent_id=surface.agent_id, provider=wrong),
                entry.at(agent_id=surface.agent_id, tool=wrong),
            }
            for path in paths - {entry.at(agent_id=surface.agent_id)}:
                answer = await surface.owner.request(entry.method, path, **right(entry))
                if answer.status_code not in statuses or "Traceback" in answer.text:
                    trial.wrong.append(f"{entry.method} {path[:60]}: {answer.status_code}")
                assert answer.headers["content-type"].split(";")[0] in (
                    "application/problem+json",
                    "text/html",
                )
        if entry.agent_field:
            names = {entry.agent_field: "0" * 32}
            path = entry.at(agent_id=surface.agent_id)
            if entry.takes == "query":
                await trial.send(surface.owner, entry, path, (404,), params=names)
            else:
                body = {**entry.good, **names}
                await trial.send(surface.owner, entry, path, (404,), json=body)
    assert trial.wrong == []
    assert await surface.everything() == before
    assert surface.provider.calls == []


async def test_a_browser_is_told_on_a_page(surface: Surface) -> None:
    trial, before = Trial(surface), await surface.everything()
    for entry in (entry for entry in TABLE if entry.needs == "browser"):
        path = entry.at(agent_id="")
        texts = [
            "",
            "ticket=&proof=&state=&code=",
            "ticket=x&ticket=y&state=x&state=y",
            "state=%00&ticket=%00&proof=%00",
            "state=%ff&ticket=%ff&proof=%ff",
            "state=" + "x" * 5000 + "&ticket=" + "x" * 5000 + "&proof=x",
            "state=%C3%A9&ticket=%C3%A9&proof=%C3%A9",
            "ticket=" + "x" * 43 + "&proof=" + "x" * 43 + "&state=" + "x" * 43 + "&more=1",
            "ticket=" + "x" * 43 + "&proof=%C3%A9",
            "ticket=" + "x" * 43 + "&proof=" + "x" * 43 + "&state=" + "x" * 43 + "&code=c",
        ]
        for text in texts:
            if entry.takes == "form":
                sent: dict[str, Any] = {"content": text.encode(), "headers": FORM}
                await trial.send(surface.nobody, entry, path, (400, 404, 422), **sent)
            else:
                await trial.send(surface.nobody, entry, f"{path}?{text}", (400, 422))
        if entry.takes == "form":
            for content, headers, status in (
                (b"{}", JSON, 415),
                (b"a=" + b"x" * 70_000, FORM, 413),
                (b"&" * 60_000, FORM, 422),
            ):
                await trial.send(
                    surface.nobody, entry, path, (status,), content=content, headers=headers
                )
    for ticket in ("", "x", "x" * 43, "x" * 5000, "%00", "%ff"):
        entry = Entry(method="GET", path="", needs="browser")
        page = f"/api/integrations/acme?ticket={ticket}"
        await trial.send(surface.nobody, entry, page, (404, 422))
    assert trial.wrong == []
    assert await surface.everything() == before
    assert surface.provider.calls == []


async def test_what_a_machine_says_wrongly_changes_nothing(surface: Surface) -> None:
    trial, before = Trial(surface), await surface.everything()
    for entry in (entry for entry in TABLE if entry.takes == "signed"):
        unreadable = [(raw, status) for raw, headers, status in UNREADABLE if headers == JSON]
        unusable = [(json.dumps(document).encode(), 422) for document in bodies_of(entry)]
        for content, status in [*unreadable, *unusable]:
            headers = surface.vm.signed(entry.path, content)
            await trial.send(
                surface.nobody, entry, entry.path, (status,), content=content, headers=headers
            )
        content = json.dumps(entry.good).encode()
        right_headers = surface.vm.signed(entry.path, content)
        for name in right_headers:
            for value in ("", "x", "-1", "9" * 5000, "é".encode(), right_headers[name] + "A"):
                await trial.send(
                    surface.nobody,
                    entry,
                    entry.path,
                    (400, 401),
                    content=content,
                    headers={**right_headers, name: value},
                )
    (join,) = (entry for entry in TABLE if entry.path == "/vm/v1/join")
    for content, headers, status in UNREADABLE:
        if headers == JSON:
            expected = 413 if status == 413 else 400
            await trial.send(surface.nobody, join, join.path, (expected,), content=content)
    assert trial.wrong == []
    assert await surface.everything() == before


async def test_headers_that_are_numbers_are_read_as_such(surface: Surface) -> None:
    path = f"/api/agents/{surface.agent_id}/events"
    for value in ("-1", "x", "", "1.5", "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}"):
        headers = [(b"Last-Event-ID", value.encode())]
        answer = await surface.owner.get(path, headers=headers)
        assert answer.status_code == 422, value
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_table_is_true(surface: Surface) -> None:
    """Each good request is answered as the table says: what is refused elsewhere is refused for
    what is wrong with it."""
    world, before = surface.world, await surface.everything()
    for entry in TABLE:
        path = entry.at(agent_id=surface.agent_id)
        if entry.path.endswith("/events"):
            continue  # has no end; ``test_events`` reads it
        request: dict[str, Any] = right(entry)
        if entry.takes == "signed":
            content = json.dumps(entry.good).encode()
            request = {"content": content, "headers": surface.vm.signed(path, content)}
        elif entry.takes == "query":
            request = {"params": entry.good}
        http = world.anonymous if entry.needs != "token" else world.http
        answer = await http.request(entry.method, path, **request)
        assert answer.status_code == entry.status, (entry.key, answer.text)
    assert "one@example.org" not in (await world.anonymous.get("/metrics")).text
    assert await surface.everything() != before
