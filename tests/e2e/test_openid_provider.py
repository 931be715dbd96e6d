"""A provider that Aura's authors did not write, connected by a manifest alone: authorization code
with PKCE, refresh with rotation, revocation. Everything is real: the provider, the control plane,
and HTTP between them and the browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit
from uuid import uuid4

import httpx
import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.openid_provider import ID, SCOPES, OpenIdProvider, openid_provider
from tests.e2e.programs import ControlPlane, control_plane, run_aura

PATH = f"/api/integrations/{ID}"


@pytest.fixture(scope="module")
def provider(module_home: Path) -> Iterator[OpenIdProvider]:
    with openid_provider(module_home / "provider.log") as running:
        yield running


@pytest.fixture(scope="module")
def manifests(module_home: Path, provider: OpenIdProvider) -> Path:
    """The folder into which the operator dropped the manifest."""
    folder = module_home / "manifests"
    folder.mkdir()
    (folder / "openid-example.toml").write_text(provider.manifest)
    return folder


@pytest.fixture(scope="module")
def plane(module_home: Path, provider: OpenIdProvider, manifests: Path) -> Iterator[ControlPlane]:
    environment = provider.environment | {"AURA_MANIFESTS": str(manifests)}
    with control_plane(module_home, **environment) as running:
        yield running


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody with a tenant of their own here, and an account at the provider."""

    account: str
    api: httpx.Client = field(repr=False)
    provider: OpenIdProvider

    def link(self) -> str:
        answer = self.api.post(f"{PATH}/link", json={})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"])

    def consent_page(self, browser: Browser, *, account: str | None = None) -> Page:
        """Opens a link and signs in at the provider."""
        return self.provider.sign_in(browser, browser.get(self.link()), account or self.account)

    def connect(self, browser: Browser) -> dict[str, Any]:
        page = browser.submit(self.consent_page(browser))
        assert page.status == 200, page
        connection = self.connection()
        assert connection is not None
        return connection

    def callback(self, browser: Browser) -> str:
        """The address that the provider sends the browser to after consent, not opened yet."""
        return browser.submit(self.consent_page(browser), stops_before=self.origin).url

    @property
    def origin(self) -> str:
        return str(self.api.base_url)

    def connection(self) -> dict[str, Any] | None:
        rows = self.api.get("/api/integrations").json()["integrations"]
        return next((row for row in rows if row["provider"] == ID), None)

    def exchanges(self) -> list[int]:
        """How the provider answered the codes that came for anybody."""
        calls = self.provider.calls(endpoint="token", grant="authorization_code")
        return [call["status"] for call in calls]

    def refreshes(self, *, count: int = 0) -> list[dict[str, Any]]:
        """The refreshes that the provider saw for this account; waits for ``count``."""
        return self.provider.calls(grant="refresh_token", account=self.account, count=count)


@pytest.fixture
def user(plane: ControlPlane, provider: OpenIdProvider) -> Iterator[User]:
    account = f"u{uuid4().hex[:8]}"
    said = run_aura(
        "users", "add", f"{account}@aura.test", "--json", "--data-dir", str(plane.data_dir)
    )
    assert said.returncode == 0, said.stderr
    provider.issue_for(3600)
    with plane.client(httpx.Response(200, text=said.stdout).json()["token"]) as api:
        yield User(account=account, api=api, provider=provider)


def replaced(url: str, **parameters: str) -> str:
    """The address with other values in its query."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return urlunsplit(parts._replace(query=urlencode(query | parameters)))


# --- connecting --------------------------------------------------------------------------------


def test_a_manifest_connects_an_account(
    user: User, browser: Browser, provider: OpenIdProvider, plane: ControlPlane
) -> None:
    connection = user.connect(browser)

    assert connection["state"] == "connected"
    assert sorted(connection["scopes"]) == sorted(SCOPES)
    assert connection["account_id"] == user.account
    assert connection["metadata"]["email"] == f"{user.account}@example.com"
    assert datetime.fromisoformat(connection["token_expiry"]) > datetime.now(UTC)
    calls = provider.calls(endpoint="token", account=user.account)
    assert [(call["grant"], call["status"]) for call in calls] == [("authorization_code", 200)]


def test_the_authorization_request_is_what_the_standards_ask_for(
    user: User, browser: Browser, provider: OpenIdProvider
) -> None:
    page = browser.get(user.link())

    asked = {name: values[0] for name, values in parse_qs(urlsplit(page.trail[1]).query).items()}
    assert asked["redirect_uri"] == f"{user.origin}{PATH}/callback"
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert len(asked["state"]) >= 43
    assert asked["scope"].split() == SCOPES
    assert asked["prompt"] == "consent"


def test_no_token_is_anywhere_but_sealed(
    user: User, browser: Browser, provider: OpenIdProvider, plane: ControlPlane
) -> None:
    page = browser.submit(user.consent_page(browser))
    answers = page.html + user.api.get("/api/integrations").text
    answers += user.api.post(f"{PATH}/validate").text
    tokens = [
        token["value"]
        for kind in ("access_token", "refresh_token")
        for token in provider.issued(user.account, kind)
    ]

    assert len(tokens) == 2
    kept = [path for path in plane.data_dir.rglob("*") if path.is_file()]
    for token in tokens:
        assert token not in answers
        assert token not in plane.log.read_text()
        for path in kept:
            assert token.encode() not in path.read_bytes(), path


def test_validating_asks_the_provider(
    user: User, browser: Browser, provider: OpenIdProvider
) -> None:
    user.connect(browser)
    asked = len(provider.calls(endpoint="userinfo", account=user.account))

    assert user.api.post(f"{PATH}/validate").json()["valid"] is True
    assert len(provider.calls(endpoint="userinfo", account=user.account)) == asked + 1


def test_access_that_the_user_took_back_asks_to_connect_again(
    user: User, browser: Browser, provider: OpenIdProvider
) -> None:
    before = user.connect(browser)
    provider.revoke(provider.issued(user.account, "refresh_token")[0])

    assert user.api.post(f"{PATH}/validate").json()["valid"] is False
    lost = user.connection()
    assert lost is not None
    assert lost["state"] == "reauth_required"
    assert lost["reason"]

    again = user.connect(browser)
    assert again["state"] == "connected"
    assert again["id"] == before["id"]
    assert user.api.post(f"{PATH}/validate").json()["valid"] is True


def test_another_account_does_not_replace_the_connected_one(
    user: User, browser: Browser, other_browser: Browser
) -> None:
    before = user.connect(browser)

    page = other_browser.submit(user.consent_page(other_browser, account=f"{user.account}x"))

    assert page.status == 409, page
    assert "another account" in page.text
    assert user.connection() == before


# --- refreshing --------------------------------------------------------------------------------


def test_many_callers_at_once_renew_once(
    user: User, browser: Browser, provider: OpenIdProvider
) -> None:
    provider.issue_for(1)
    connection = user.connect(browser)
    provider.issue_for(3600)
    # The end of a token is an instant that nothing announces.
    time.sleep(max(0.0, _seconds_until(connection["token_expiry"])))

    with ThreadPoolExecutor(8) as callers:
        answers = list(
            callers.map(lambda _: user.api.post(f"{PATH}/validate").json(), range(8), timeout=30)
        )

    assert [answer["valid"] for answer in answers] == [True] * 8
    assert [call["status"] for call in user.refreshes()] == [200]
    renewed = user.connection()
    assert renewed is not None
    assert renewed["state"] == "connected"
    assert renewed["revision"] > connection["revision"]
    assert _seconds_until(renewed["token_expiry"]) > 3000


def _seconds_until(instant: str) -> float:
    return (datetime.fromisoformat(instant) - datetime.now(UTC)).total_seconds()


def test_the_sweep_renews_before_the_end_and_keeps_what_was_rotated(
    home: Path, manifests: Path, provider: OpenIdProvider, browser: Browser
) -> None:
    environment = provider.environment | {"AURA_MANIFESTS": str(manifests)}
    provider.issue_for(5)
    account = f"u{uuid4().hex[:8]}"
    with control_plane(home, **environment) as plane:
        User(account=account, api=plane.api, provider=provider).connect(browser)
    # Started anew, so that what it refreshes with is what it stored.
    with control_plane(home, **environment) as plane:
        user = User(account=account, api=plane.api, provider=provider)
        refreshes = user.refreshes(count=2)
        provider.issue_for(3600)
        refreshes = user.refreshes(count=3)
        accesses = provider.issued(account, "access_token")
        rotated = provider.issued(account, "refresh_token")
        valid = user.api.post(f"{PATH}/validate").json()["valid"]

    assert valid is True
    assert [call["status"] for call in refreshes] == [200] * 3
    # The second and third were made with what the one before brought, while that was alive.
    assert [
        call["at"] < before["expires_at"]
        for call, before in zip(refreshes[1:], accesses[1:], strict=False)
    ] == [True, True]
    assert [provider.is_active(token) for token in rotated] == [False, False, False, True]


# --- disconnecting -----------------------------------------------------------------------------


def test_disconnecting_ends_the_tokens_at_the_provider(
    user: User, browser: Browser, provider: OpenIdProvider
) -> None:
    user.connect(browser)
    tokens = [
        *provider.issued(user.account, "access_token"),
        *provider.issued(user.account, "refresh_token"),
    ]
    assert [provider.is_active(token) for token in tokens] == [True, True]

    receipt = user.api.delete(PATH).json()

    assert [provider.is_active(token) for token in tokens] == [False, False]
    outcomes = {line["token"]: line["outcome"] for line in receipt["tokens"]}
    assert outcomes["refresh_token"] == "revoked"
    assert outcomes["access_token"] in ("revoked", "already_invalid")
    ended = user.connection()
    assert ended is not None
    assert ended["state"] == "disconnected"
    assert ended["receipt"] == receipt
    assert user.api.post(f"{PATH}/validate").status_code == 409


def test_disconnecting_again_answers_the_same_and_asks_nobody(
    user: User, browser: Browser, provider: OpenIdProvider
) -> None:
    user.connect(browser)
    receipt = user.api.delete(PATH).json()
    asked = len(provider.calls(endpoint="revocation"))

    again = user.api.delete(PATH)

    assert again.status_code == 200
    assert again.json() == receipt
    assert len(provider.calls(endpoint="revocation")) == asked


def test_disconnecting_from_a_provider_that_is_gone_says_so(home: Path, browser: Browser) -> None:
    folder = home / "manifests"
    folder.mkdir()
    with ExitStack() as control:
        with openid_provider(home / "provider.log") as provider:
            (folder / "openid-example.toml").write_text(provider.manifest)
            environment = provider.environment | {"AURA_MANIFESTS": str(folder)}
            plane = control.enter_context(control_plane(home, **environment))
            user = User(account="u1", api=plane.api, provider=provider)
            user.connect(browser)
        receipt = user.api.delete(PATH).json()
        ended = user.connection()

    assert {line["outcome"] for line in receipt["tokens"]} == {"failed"}
    assert all(line["detail"] for line in receipt["tokens"])
    assert ended is not None
    assert ended["state"] == "disconnected"


# --- attacks -----------------------------------------------------------------------------------


def test_a_state_is_good_once(user: User, browser: Browser) -> None:
    address = user.callback(browser)
    assert browser.get(address).status == 200
    before, exchanges = user.connection(), user.exchanges()

    page = browser.get(address)

    assert page.status == 422, page
    assert "finished already" in page.text
    assert user.connection() == before
    assert user.exchanges() == exchanges


def test_an_authorization_is_not_finished_in_another_browser(
    user: User, browser: Browser, other_browser: Browser
) -> None:
    exchanges = user.exchanges()
    address = user.callback(browser)

    page = other_browser.get(address)
    assert page.status == 422, page
    assert "another browser" in page.text
    # It leaked, so it is of no use to the user's own browser either.
    assert browser.get(address).status == 422
    assert user.exchanges() == exchanges
    assert user.connection() is None


def test_a_link_opens_in_one_browser(user: User, browser: Browser, other_browser: Browser) -> None:
    link = user.link()
    assert browser.get(link).status == 200

    page = other_browser.get(link)

    assert page.status == 422, page
    assert "used already" in page.text


def test_refusing_consent_connects_nothing(user: User, browser: Browser) -> None:
    exchanges = user.exchanges()

    page = browser.follow(user.consent_page(browser), "[ Cancel ]")

    assert page.status == 422, page
    assert "You did not allow the access" in page.text
    assert user.exchanges() == exchanges
    assert user.connection() is None


def test_an_answer_of_another_provider_is_refused(user: User, browser: Browser) -> None:
    exchanges = user.exchanges()

    page = browser.get(replaced(user.callback(browser), iss="https://other.example"))

    assert page.status == 422, page
    assert "another provider" in page.text
    assert user.exchanges() == exchanges
    assert user.connection() is None


def test_a_code_from_another_authorization_is_refused_by_its_verifier(
    user: User, browser: Browser, other_browser: Browser
) -> None:
    """Code injection (RFC 9700 §4.5): the stolen code is genuine, but it belongs to a verifier
    that this authorization does not know."""
    exchanges = user.exchanges()
    stolen = parse_qs(urlsplit(user.callback(other_browser)).query)["code"][0]

    page = browser.get(replaced(user.callback(browser), code=stolen))

    assert page.status == 422, page
    assert user.exchanges() == [*exchanges, 400]
    assert user.connection() is None


def test_what_the_address_says_is_not_shown(user: User, browser: Browser) -> None:
    address = replaced(
        user.callback(browser), error="<b>odd</b>", error_description="call this number"
    )

    page = browser.get(address)

    assert page.status == 422, page
    assert "call this number" not in page.html
    assert "<b>odd" not in page.html
