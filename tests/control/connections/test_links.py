"""Links: what they show, who may go on with one, and that nobody is sent away unasked."""

from __future__ import annotations

import re

import httpx
import pytest

from aura_control.db.models import ConnectionState
from tests.control.connections.conftest import Control, query_of

COOKIE = "aura-oauth"
ON = "/api/integrations/acme/continue"


async def link(control: Control) -> str:
    async with control.client(control.ada) as caller:
        made = await caller.post("/api/integrations/acme/link")
    assert made.status_code == 201
    return str(made.json()["url"])


def form_of(page: httpx.Response) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))


async def test_a_link_asks_before_it_goes_anywhere(control: Control) -> None:
    url = await link(control)
    async with control.client() as browser:
        page = await browser.get(url)
        assert page.status_code == 200
        assert "Connect Acme?" in page.text
        assert "ada@example.org" in page.text
        assert f'action="{ON}"' in page.text
        left = await browser.post(ON, data=form_of(page))
        assert left.status_code == 303
        assert left.headers["location"].startswith("https://auth.acme.example/authorize?")
        assert query_of(url)["ticket"] not in left.headers["location"]
        back = control.provider.consent(left.headers["location"])
        answer = await browser.get("/api/integrations/acme/callback", params=back)
    assert answer.status_code == 200
    assert (await control.connection()).state is ConnectionState.CONNECTED


async def test_looking_spends_nothing(control: Control) -> None:
    url = await link(control)
    async with control.client() as scanner, control.client() as browser:
        assert (await scanner.head(url)).status_code == 200
        assert (await scanner.get(url)).status_code == 200
        page = await browser.get(url)
        assert (await browser.post(ON, data=form_of(page))).status_code == 303


async def test_one_browser_goes_on_once(control: Control) -> None:
    url = await link(control)
    async with control.client() as browser, control.client() as other:
        page, seen_elsewhere = await browser.get(url), await other.get(url)
        left = await browser.post(ON, data=form_of(page))
        for late in (
            await other.post(ON, data=form_of(seen_elsewhere)),
            await browser.post(ON, data=form_of(page)),
            await other.get(url),
        ):
            assert late.status_code == 422
            assert "used already" in late.text
        back = control.provider.consent(left.headers["location"])
        stolen = await other.get("/api/integrations/acme/callback", params=back)
        assert "another browser" in stolen.text
    assert control.provider.calls == []


@pytest.mark.parametrize("forged", ["no cookie", "other cookie", "other proof", "other ticket"])
async def test_a_form_of_somebody_elses_page_goes_nowhere(control: Control, forged: str) -> None:
    """No cookie: another site's form. Other cookie, proof or ticket: what an attacker, who can
    open links too, could put into a form on a sibling host."""
    url, other_url = await link(control), await link(control)
    async with control.client() as browser, control.client() as attacker:
        page, theirs = await browser.get(url), await attacker.get(url)
        form = form_of(page)
        if forged == "no cookie":
            browser.cookies.clear()
        elif forged == "other cookie":
            browser.cookies.set(COOKIE, "y" * 43)
        elif forged == "other proof":
            form["proof"] = form_of(theirs)["proof"]
        else:
            form["ticket"] = query_of(other_url)["ticket"]
        answer = await browser.post(ON, data=form)
        assert answer.status_code == 422
        assert "not opened in this browser" in answer.text
        assert "location" not in answer.headers
        # Nothing was spent by it.
        assert (await attacker.post(ON, data=form_of(theirs))).status_code == 303


async def test_a_link_belongs_to_its_provider(control: Control) -> None:
    url = await link(control)
    async with control.client() as browser:
        page = await browser.get(url)
        wrong = await browser.post("/api/integrations/brittle/continue", data=form_of(page))
        assert wrong.status_code == 422
        assert (await browser.get(url.replace("acme", "brittle"))).status_code == 422
        assert (await browser.post(ON, data=form_of(page))).status_code == 303


async def test_a_link_expires(control: Control) -> None:
    url = await link(control)
    async with control.client() as browser:
        page = await browser.get(url)
        control.clock.forward(minutes=11)
        for answer in (await browser.post(ON, data=form_of(page)), await browser.get(url)):
            assert answer.status_code == 422
            assert "time is over" in answer.text


async def test_the_question_is_locked_down(control: Control) -> None:
    async with control.client() as browser:
        page = await browser.get(await link(control))
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy  # or a click could be stolen
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    # With no-referrer browsers would say that the form comes from nowhere.
    assert page.headers["referrer-policy"] == "same-origin"
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


@pytest.mark.parametrize("ticket", ["", "x", "x" * 43, "../../etc", "x" * 5000, "\x00"])
async def test_a_link_cannot_be_guessed(control: Control, ticket: str) -> None:
    async with control.client() as browser:
        seen = await browser.get("/api/integrations/acme", params={"ticket": ticket})
        sent = await browser.post(ON, data={"ticket": ticket, "proof": "x" * 43})
    for answer in (seen, sent):
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"].startswith("text/html")
