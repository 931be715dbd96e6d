"""A credential that somebody puts in the wrong place is refused, and not told again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.canaries import Canaries
from tests.control.surface.conftest import Surface
from tests.control.surface.table import TABLE, Entry

SECRETS = ("sk-live-51H8aQ2eZvKYlo2Cdx9TfWq", "9f86d081884c7d659a2feaa0c55ad015")
"""Letters of both cases, as most keys have; and a key in hexadecimal."""


def misplaced(entry: Entry, secret: str) -> Iterator[Any]:
    """Bodies with the secret in each place that takes something: as a name and as a value."""
    good = entry.good or {}
    yield {**good, secret: 1}
    yield {**good, secret: secret}
    for name in {*entry.changed, *good}:
        values: list[Any] = [
            secret,
            [secret],
            {secret: 1},
            {secret: secret},
            {secret: {secret: {}}},
        ]
        for value in values:
            yield {**good, name: value}
            yield {**good, name: {"x": value}}
    if "permissions" in entry.changed:
        for part in ("scopes", "rate_limits", "allowed_domains", "max_daily_token_spend"):
            values = [secret, [secret], {secret: {"max_per_hour": 1}}, {"a:b": {secret: 1}}]
            for value in values:
                yield {**good, "permissions": {part: value}}


async def answers(surface: Surface, entry: Entry, secret: str) -> list[httpx.Response]:
    http = surface.owner if entry.needs == "token" else surface.nobody
    path = entry.at(agent_id=surface.agent_id)
    found = [
        await http.request(entry.method, path, params=params)
        for params in ({secret: "1"}, {"auth": secret}, {secret: secret}, {"state": secret})
    ]
    if entry.takes == "form":
        found += [await http.request(entry.method, path, data={secret: secret, "ticket": secret})]
    if entry.takes in ("json", "signed", "nothing"):
        for document in misplaced(entry, secret):
            content = json.dumps(document).encode()
            headers = {"Content-Type": "application/json"}
            if entry.takes == "signed":
                headers = surface.vm.signed(entry.path, content)
            found += [await http.request(entry.method, path, content=content, headers=headers)]
    return found


async def test_a_secret_in_the_wrong_place_is_not_told_again(surface: Surface) -> None:
    canaries, refused = Canaries(), 0
    for entry in TABLE:
        if entry.path.endswith("/events"):
            continue  # a stream, which takes nothing either
        for secret in SECRETS:
            canaries.plant(secret, secret)
            for answer in await answers(surface, entry, secret):
                if answer.status_code < 400:
                    continue  # it was taken for what it says: a name, a setting
                refused += 1
                canaries.look(f"{entry.method} {entry.path}", answer.text + repr(answer.headers))
    assert refused > 200
    canaries.forbid()
