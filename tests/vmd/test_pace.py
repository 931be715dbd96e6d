"""A provider that asks to slow down is understood by its manifest, and the agent is told so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web

from aura_core.errors import ProviderRejected, RateLimited
from aura_core.manifest import RateLimit
from aura_core.skillcli import BrokerApi
from tests.vmd.harness import TOKEN, Machine, Provider, ask, binding, credential, policy

FACTS = RateLimit(
    statuses=(429, 403),
    retry_after_header="X-Wait",
    remaining_header="X-Left",
    reset_header="X-Reset",
    reset_kind="delta_seconds",
    code_path="error.reason",
    codes=("slowDown",),
)
SLOW = {"error": {"reason": "slowDown"}}


async def limited(machine: Machine, provider: Provider, answer: Mapping[str, Any]) -> None:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(**answer)

    provider.answer = reply
    await machine.deliver("c-1", credential(binding(provider.url, rate_limit=FACTS)))
    await machine.deliver("policy", policy("email:read"))


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({"status": 429, "data": {}}, 1.0),
        ({"status": 429, "data": {}, "headers": {"X-Wait": "7"}}, 7.0),
        ({"status": 403, "data": SLOW, "headers": {"X-Reset": "30"}}, 30.0),
        ({"status": 403, "data": {}, "headers": {"X-Left": "0"}}, 1.0),
    ],
)
async def test_every_way_to_say_it_becomes_one(
    machine: Machine, provider: Provider, answer: Mapping[str, Any], seconds: float
) -> None:
    await limited(machine, provider, answer)
    status, headers, body = await ask(machine, "/v1/mailer/mail/1")
    document = json.loads(body)
    assert (status, document["type"]) == (429, "urn:aura:problem:rate-limited")
    assert document["retry_after"] == seconds
    assert headers["retry-after"] == str(round(seconds))
    assert headers["aura-answered-by"] == "broker"
    last = machine.actions()[-1]
    assert (last["problem"], last["status"]) == ("rate-limited", answer["status"])

    skill = BrokerApi(provider="mailer", socket_path=str(machine.settings.layout.broker_socket))
    with pytest.raises(RateLimited) as caught:
        await skill.get("/mail/1")
    assert caught.value.retry_after == seconds


async def test_a_refusal_of_the_same_status_stays_one(machine: Machine, provider: Provider) -> None:
    refusal = {"status": 403, "data": {"error": {"reason": "forbidden"}}}
    await limited(machine, provider, refusal)
    status, headers, body = await ask(machine, "/v1/mailer/mail/1")
    assert (status, json.loads(body)) == (403, refusal["data"])
    assert headers["aura-answered-by"] == "provider"
    skill = BrokerApi(provider="mailer", socket_path=str(machine.settings.layout.broker_socket))
    with pytest.raises(ProviderRejected):
        await skill.get("/mail/1")


async def test_one_that_repeats_the_credential_is_withheld_all_the_same(
    machine: Machine, provider: Provider
) -> None:
    await limited(machine, provider, {"status": 429, "data": {"sent": TOKEN}})
    status, _, body = await ask(machine, "/v1/mailer/mail/1")
    assert (status, json.loads(body)["rule"]) == (403, "reflected")
