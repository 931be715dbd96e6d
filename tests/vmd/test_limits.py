"""Limits of the agent at its broker: calls, domains and tokens, over restarts and kills."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aura_core.errors import LimitReached
from aura_core.manifest import TokenUsage
from aura_core.permissions import DAY, Decision
from aura_core.skillcli import BrokerApi
from aura_vmd.holdings import Holdings
from aura_vmd.metering import Metering
from tests.vmd.control_plane import Control, now_ms, until
from tests.vmd.harness import (
    Machine,
    Provider,
    ask,
    binding,
    credential,
    enrolled,
    policy,
)
from tests.vmd.process import machine as process_machine
from tests.vmd.process import started

USAGE = (TokenUsage(path="/mail/model", tokens=(("usage.in",), ("usage.out",))),)
TEN = {"rate_limits": {"email:read": {"max_per_hour": 10}}}


async def give(machine: Machine, provider: Provider, *scopes: str, **limits: Any) -> None:
    await machine.deliver("c-1", credential(binding(provider.url, usage=USAGE)))
    await machine.deliver("policy", policy(*scopes, **limits))


async def rules(machine: Machine, count: int, target: str = "/v1/mailer/mail/1") -> list[str]:
    """What so many calls came to: ``ok``, or the rule that refused."""
    found = []
    for _ in range(count):
        status, _, body = await ask(machine, target)
        found.append("ok" if status == 200 else json.loads(body)["rule"])
    return found


async def test_a_limit_lets_through_what_it_says(machine: Machine, provider: Provider) -> None:
    await give(machine, provider, "email:read", "email:send", **TEN)
    assert await rules(machine, 12) == ["ok"] * 10 + ["rate:email:read:hour"] * 2
    assert len(provider.calls) == 10
    status, headers, body = await ask(machine, "/v1/mailer/mail/1")
    document = json.loads(body)
    assert (status, document["type"]) == (429, "urn:aura:problem:limit-reached")
    assert 3600 <= document["retry_after"] <= 3660 or document["retry_after"] > 3500
    assert headers["retry-after"] == str(round(document["retry_after"]))
    assert headers["aura-answered-by"] == "broker"
    # Another scope has its own limit, or none.
    assert (await ask(machine, "/v1/mailer/mail/send", method="POST"))[0] == 200

    skill = BrokerApi(provider="mailer", socket_path=str(machine.settings.layout.broker_socket))
    with pytest.raises(LimitReached) as caught:
        await skill.get("/mail/1")
    assert caught.value.rule == "rate:email:read:hour"
    assert caught.value.retry_after > 3500


async def test_the_overview_names_limits_and_what_is_used(
    machine: Machine, provider: Provider
) -> None:
    both = {"email:read": {"max_per_hour": 10, "max_per_day": 2 * 10**9}}
    domains = [provider.netloc.partition(":")[0], "*.example.com"]
    await give(
        machine,
        provider,
        "email:read",
        rate_limits=both,
        allowed_domains=domains,
        max_daily_token_spend=1000,
    )
    assert await rules(machine, 3) == ["ok"] * 3
    overview = json.loads((await ask(machine, "/v1"))[2])
    assert overview["allowed_domains"] == sorted(domains)
    assert overview["limits"] == [
        {"rule": "rate:email:read:hour", "most": 10, "used": 3},
        {"rule": "rate:email:read:day", "most": 2 * 10**9, "used": 3},
        {"rule": "spend:day", "most": 1000, "used": 0},
    ]


async def test_many_at_once_do_not_get_more(machine: Machine, provider: Provider) -> None:
    await give(machine, provider, "email:read", **TEN)
    found = await asyncio.gather(*(rules(machine, 1) for _ in range(40)))
    assert [one for (one,) in found].count("ok") == 10
    assert len(provider.calls) == 10


async def test_a_call_that_was_never_sent_does_not_count(
    machine: Machine, provider: Provider
) -> None:
    await give(machine, provider, "email:read", **TEN)
    gone = credential(binding("http://127.0.0.1:1"), connection="c-2")
    await machine.deliver("c-2", gone)
    assert [(await ask(machine, "/v1/mailer/mail/1"))[0] for _ in range(12)] == [502] * 12
    await machine.push("c-2", machine.control.seal("c-2", b"", revision=now_ms(), op="delete"))
    assert await rules(machine, 11) == ["ok"] * 10 + ["rate:email:read:hour"]


async def test_a_refused_call_does_not_count(machine: Machine, provider: Provider) -> None:
    await give(machine, provider, "email:read", **TEN, allowed_domains=["elsewhere.example"])
    assert await rules(machine, 3) == ["domain:127.0.0.1"] * 3
    await machine.deliver("policy", policy("email:read", **TEN, allowed_domains=["127.0.0.1"]))
    assert await rules(machine, 11) == ["ok"] * 10 + ["rate:email:read:hour"]


async def test_counters_survive_a_restart(root: Path, control: Control, provider: Provider) -> None:
    async with enrolled(root, control) as machine:
        await give(machine, provider, "email:read", **TEN)
        assert await rules(machine, 6) == ["ok"] * 6
    async with enrolled(root, control) as machine:
        assert await rules(machine, 6) == ["ok"] * 4 + ["rate:email:read:hour"] * 2


async def test_killed_at_any_moment_no_call_is_free(
    root: Path, control: Control, provider: Provider
) -> None:
    """A call that reached the provider is counted, whenever the daemon is killed."""
    vm, reached = process_machine(root, control), asyncio.Event()
    under_way: list[asyncio.Task[Any]] = []

    async def hold(_: web.Request) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    provider.answer = hold
    async with started(root) as daemon:
        await until(lambda: control.heartbeats, changed=control.changed)
        await give(vm, provider, "email:read", **TEN)
        for _ in range(3):
            reached.clear()
            under_way.append(asyncio.create_task(ask(vm, "/v1/mailer/mail/1")))
            await reached.wait()
        await daemon.end(signal.SIGKILL)
    await asyncio.gather(*under_way, return_exceptions=True)
    provider.answer = None
    async with started(root) as daemon:
        assert await rules(vm, 9) == ["ok"] * 7 + ["rate:email:read:hour"] * 2
        await daemon.end(signal.SIGTERM)


# -- tokens


def model(machine: Machine) -> Any:
    return ask(machine, "/v1/mailer/mail/model", method="POST", data=b"{}")


@pytest.mark.parametrize("shape", ["plain", "stream", "gzip", "long stream"])
async def test_spent_tokens_close_what_costs_tokens(
    machine: Machine, provider: Provider, shape: str
) -> None:
    usage = json.dumps({"usage": {"in": 400, "out": 200}}).encode()
    stream = b'data: {"usage": {"in": 400, "out": 1}}\n\n: x\n\ndata: ' + usage + b"\n\n"
    body = {
        "plain": usage,
        "stream": stream,
        "gzip": gzip.compress(usage),
        "long stream": b": filler\n\n" * 150_000 + stream,
    }[shape]
    headers = {"Content-Type": "text/event-stream" if "stream" in shape else "application/json"}
    if shape == "gzip":
        headers["Content-Encoding"] = "gzip"

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=headers)

    provider.answer = reply
    await give(machine, provider, "api:outbound", "email:read", max_daily_token_spend=1000)
    answers = [await model(machine) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert answers[0][2] == body
    assert json.loads(answers[2][2])["rule"] == "spend:day"
    # What costs none goes on.
    assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 200


async def test_an_agent_that_hangs_up_has_spent(machine: Machine, provider: Provider) -> None:
    reached = asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    provider.answer = hold
    await give(machine, provider, "api:outbound", max_daily_token_spend=100)
    body = b"x" * 600
    call = asyncio.create_task(ask(machine, "/v1/mailer/mail/model", method="POST", data=body))
    await reached.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    # The machine's next word to its control plane says that it has counted.
    await until(
        lambda: sum(counts(machine.control.heartbeats).values()) >= 200,
        changed=machine.control.changed,
    )
    assert json.loads((await model(machine))[2])["rule"] == "spend:day"


async def test_a_budget_of_nought_closes_them_for_good(
    machine: Machine, provider: Provider
) -> None:
    await give(machine, provider, "api:outbound", max_daily_token_spend=0)
    status, headers, body = await model(machine)
    assert (status, json.loads(body)["rule"]) == (403, "spend:day")
    assert "retry-after" not in headers
    assert provider.calls == []


# -- with the control plane


async def test_both_sides_count_for_one_agent(machine: Machine, provider: Provider) -> None:
    control, minute = machine.control, int(time.time() // 60)
    elsewhere = [{"what": "email:read", "minute": minute, "number": 7}, "damaged", {"what": 1}]
    control.answer = lambda body: {"usage": elsewhere} if "usage" in body else {}
    await give(machine, provider, "email:read", **TEN)
    await until(lambda: said(control.heartbeats[-1])["since"] == minute, changed=control.changed)
    assert await rules(machine, 4) == ["ok"] * 3 + ["rate:email:read:hour"]
    await until(
        lambda: sum(n for _, n in counts(control.heartbeats).items()) == 3, changed=control.changed
    )


def said(heartbeat: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = heartbeat.get("usage", {"counts": [], "since": 0})
    return found


def counts(heartbeats: Iterable[dict[str, Any]]) -> dict[tuple[str, int], int]:
    """What the control plane has, having put each report over what it had."""
    found = {}
    for heartbeat in heartbeats:
        for count in said(heartbeat)["counts"]:
            found[count["what"], count["minute"]] = count["number"]
    return found


async def test_without_limits_nothing_is_said_or_written(
    connected: Machine, provider: Provider
) -> None:
    assert await rules(connected, 3) == ["ok"] * 3
    before = len(connected.control.heartbeats)
    control = connected.control
    await until(lambda: len(control.heartbeats) > before, changed=control.changed)
    assert "usage" not in control.heartbeats[-1]
    assert not (connected.settings.layout.state / "usage.jsonl").exists()


# -- the file


SEND = Decision(allowed=True, needs=("email:read",), rule="scope:email:read")


def metering(path: Path) -> Metering:
    holdings = Holdings()
    document = {"kind": "policy", "scopes": [], "rate_limits": TEN["rate_limits"]}
    holdings.put("policy", holdings.permissions.model_validate(document), revision=1)
    meter = Metering(path=path / "usage.jsonl", holdings=holdings)
    meter.load()
    return meter


async def used(path: Path) -> int:
    """How many calls the limit of ten does not leave any more."""
    meter, left = metering(path), 0
    while True:
        try:
            await meter.take(SEND)
        except LimitReached:
            return 10 - left
        left += 1


async def test_a_torn_line_is_a_call_that_was_not_made(tmp_path: Path) -> None:
    meter = metering(tmp_path)
    for _ in range(4):
        await meter.take(SEND)
    file = tmp_path / "usage.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    again = metering(tmp_path)
    await again.take(SEND)
    assert await used(tmp_path) == 4


async def test_the_file_is_compacted_and_nothing_lost(tmp_path: Path) -> None:
    old = json.dumps(["email:read", int(time.time() // 60) - DAY - 5, 1]).encode() + b"\n"
    (tmp_path / "usage.jsonl").write_bytes(old * 20_000)
    meter = metering(tmp_path)
    for _ in range(4):
        await meter.take(SEND)
    assert (tmp_path / "usage.jsonl").stat().st_size < 1000
    assert await used(tmp_path) == 4


async def test_what_cannot_be_counted_is_not_done(machine: Machine, provider: Provider) -> None:
    await give(machine, provider, "email:read", **TEN)
    file = machine.settings.layout.state / "usage.jsonl"
    file.mkdir()
    assert (await ask(machine, "/v1/mailer/mail/1"))[0] == 500
    assert provider.calls == []
    file.rmdir()
    assert await rules(machine, 11) == ["ok"] * 10 + ["rate:email:read:hour"]
