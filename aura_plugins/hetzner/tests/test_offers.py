"""Types are chosen per place, under a ceiling, by what the API says now."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from aura_plugin_hetzner.compute import HetznerCompute
from aura_plugin_hetzner.offers import Shelf
from aura_plugin_hetzner.settings import HetznerSettings
from pydantic import SecretStr

from aura_core.errors import ComputeError
from aura_plugins.hetzner.tests.projects import Make, request
from tests.fakes.hetzner.goods import pricing, server_types
from tests.fakes.hetzner.project import Fault, Project

PLAIN = HetznerSettings(token=SecretStr("t"))


def offered(
    *, region: str | None = None, size: str | None = None, currency: str = "EUR", **changes: Any
) -> list[tuple[str, str]]:
    shelf = Shelf(types=server_types(), pricing=pricing(currency))
    found = shelf.offers(replace(PLAIN, **changes), region=region, size=size)
    return [(offer.type, offer.location) for offer in found]


def test_the_cheapest_comes_first_and_what_seems_sold_out_last() -> None:
    assert offered() == [
        ("cx23", "fsn1"),
        ("cax11", "nbg1"),
        ("cax11", "fsn1"),
        ("cpx12", "nbg1"),
        ("cpx12", "fsn1"),
        ("cpx22", "nbg1"),
        ("cpx22", "fsn1"),
        ("cx23", "nbg1"),
    ]


@pytest.mark.parametrize("region", ["us-east", "US-East", "ash"])
def test_us_east_is_ashburn(region: str) -> None:
    assert offered(region=region) == [("cpx11", "ash")]


def test_a_location_is_a_region_too() -> None:
    assert {place for _, place in offered(region="fsn1")} == {"fsn1"}


def test_the_operators_types_are_taken_in_their_order() -> None:
    assert offered(types=("cpx22", "cax11")) == [
        ("cpx22", "nbg1"), ("cpx22", "fsn1"), ("cax11", "nbg1"), ("cax11", "fsn1"),
    ]  # fmt: skip
    assert offered(types=("cpx22", "cax11"), size="cpx12", region="nbg1") == [("cpx12", "nbg1")]


@pytest.mark.parametrize(("ceiling", "dear"), [("11.98", False), ("11.99", True)])
def test_the_ceiling_is_net_and_counts_the_address(ceiling: str, dear: bool) -> None:
    # 11.49 for the server and 0.50 for its IPv4.
    most = {"EUR": Decimal(ceiling)}
    assert (("cpx12", "nbg1") in offered(most_monthly=most)) is dear


def test_a_ceiling_below_everything_names_the_cheapest() -> None:
    with pytest.raises(ComputeError, match=r"cpx11 in ash \(17.99 EUR\).*MONTHLY_EUR") as caught:
        offered(region="us-east", most_monthly={"EUR": Decimal(10)})
    assert not caught.value.retryable


def test_another_currency_needs_a_ceiling_of_its_own() -> None:
    assert offered(currency="USD", region="us-east") == [("cpx11", "ash")]
    with pytest.raises(ComputeError, match="billed in CHF"):
        offered(currency="CHF")


def test_an_unknown_region_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ComputeError, match=r"region 'mars-1'.*us-east, eu-central.*ash") as caught:
        offered(region="mars-1")
    assert not caught.value.retryable


def test_an_unknown_type_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ComputeError, match=r"no server type cx22.*cpx11") as caught:
        offered(types=("cx22", "cx23"))
    assert not caught.value.retryable


def test_a_type_that_is_not_in_the_region_is_refused() -> None:
    with pytest.raises(ComputeError, match="no server type that fits in ash"):
        offered(region="us-east", types=("cx23",))


def test_what_is_on_its_way_out_is_taken_only_by_name() -> None:
    types = server_types()
    for place in types[0]["locations"]:
        leaving = {"announced": "2026-10-01T00:00:00Z", "unavailable_after": "2027-01-01T00:00:00Z"}
        place["deprecation"] = leaving
    shelf = Shelf(types=types, pricing=pricing())
    assert "cx23" not in {offer.type for offer in shelf.offers(PLAIN, region=None, size=None)}
    named = replace(PLAIN, types=("cx23",))
    assert {offer.type for offer in shelf.offers(named, region=None, size=None)} == {"cx23"}


async def test_what_is_sold_out_gives_way_to_the_next(
    compute: HetznerCompute, project: Project
) -> None:
    project.sold_out = {("cx23", "fsn1"), ("cax11", "nbg1")}
    await compute.create(request())
    (server,) = project.servers.values()
    assert (server["type"]["name"], server["place"]) == ("cax11", "fsn1")
    # It is not asked for again at once.
    await compute.create(request(2))
    assert project.calls["POST /servers"] == 4


async def test_what_could_not_be_placed_gives_way_to_the_next(
    compute: HetznerCompute, project: Project
) -> None:
    fault = Fault(method="POST", path="/servers", status=422, code="placement_error")
    project.faults.append(fault)
    await compute.create(request())
    (server,) = project.servers.values()
    assert server["type"]["name"] == "cax11"


async def test_no_stock_anywhere_says_what_was_tried(make: Make, project: Project) -> None:
    project.sold_out = {("cpx12", "nbg1"), ("cpx12", "fsn1")}
    compute = make(types=("cpx12",))
    with pytest.raises(ComputeError) as caught:
        await compute.create(request())
    assert "cpx12 in nbg1 (11.99 EUR), cpx12 in fsn1 (11.99 EUR)" in str(caught.value)
    assert caught.value.retryable
    assert project.books["servers"] == 0


async def test_what_was_sold_out_is_asked_for_again_a_minute_later(
    make: Make, project: Project
) -> None:
    project.sold_out = {("cpx12", "nbg1"), ("cpx12", "fsn1")}
    compute = make(types=("cpx12",))
    for _ in range(2):
        with pytest.raises(ComputeError, match="no server in stock"):
            await compute.create(request())
    assert project.calls["POST /servers"] == 2
    project.sold_out.clear()
    await compute.create(request(2, region="eu-central", size="cpx22"))
    # That took some seconds; the rest of the minute is waited for by looking at the servers.
    while project.clock() < 1061:
        await compute.find("aura-nothing")
        await compute.create(request(3, size="cpx22"))
        await compute.destroy(request(3).name)
    await compute.create(request())
    assert {server["type"]["name"] for server in project.servers.values()} == {"cpx12", "cpx22"}
