"""A provider that Aura's authors did not write, connected by a manifest alone: authorization code
with PKCE, refresh with rotation, revocation. Everything is real: the provider, the control plane,
and HTTP between them and the browser."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from tests.e2e.browser import Browser
from tests.e2e.openid_provider import PATH, SCOPES, OpenIdProvider, User, openid_provider
from tests.e2e.programs import ControlPlane, control_plane

# --- connecting --------------------------------------------------------------------------------


def test_a_manifest_connects_an_account(
    user: User, browser: Browser, openid: OpenIdProvider, openid_plane: ControlPlane
) -> None:
    connection = user.connect(browser)

    assert connection["state"] == "connected"
    assert sorted(connection["scopes"]) == sorted(SCOPES)
    assert connection["account_id"] == user.account
    assert connection["metadata"]["email"] == f"{user.account}@example.com"
    assert datetime.fromisoformat(connection["token_expiry"]) > datetime.now(UTC)
    calls = openid.calls(endpoint="token", account=user.account)
    assert [(call["grant"], call["status"]) for call in calls] == [("authorization_code", 200)]


def test_the_authorization_request_is_what_the_standards_ask_for(
    user: User, browser: Browser, openid: OpenIdProvider
) -> None:
    page = user.departed(browser)

    asked = {name: values[0] for name, values in parse_qs(urlsplit(page.trail[1]).query).items()}
    assert asked["redirect_uri"] == f"{user.origin}{PATH}/callback"
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert len(asked["state"]) >= 43
    assert asked["scope"].split() == SCOPES
    assert asked["prompt"] == "consent"


def test_no_token_is_anywhere_but_sealed(
    user: User, browser: Browser, openid: OpenIdProvider, openid_plane: ControlPlane
) -> None:
    page = browser.submit(user.consent_page(browser))
    answers = page.html + user.api.get("/api/integrations").text
    answers += user.api.post(f"{PATH}/validate").text
    tokens = [
        token["value"]
        for kind in ("access_token", "refresh_token")
        for token in openid.issued(user.account, kind)
    ]

    callback = parse_qs(urlsplit(page.url).query)

    assert len(tokens) == 2
    kept = [path for path in openid_plane.data_dir.rglob("*") if path.is_file()]
    for token in tokens:
        assert token not in answers
        for path in kept:
            assert token.encode() not in path.read_bytes(), path
    log = openid_plane.log.read_text()
    assert f"{PATH}/callback" in log
    for secret in (*tokens, *callback["code"], *callback["state"]):
        assert secret not in log


def test_validating_asks_the_provider(user: User, browser: Browser, openid: OpenIdProvider) -> None:
    user.connect(browser)
    asked = len(openid.calls(endpoint="userinfo", account=user.account))

    assert user.validate()
    assert len(openid.calls(endpoint="userinfo", account=user.account)) == asked + 1


def test_access_that_the_user_took_back_asks_to_connect_again(
    user: User, browser: Browser, openid: OpenIdProvider
) -> None:
    before = user.connect(browser)
    openid.revoke(openid.issued(user.account, "refresh_token")[0])

    assert not user.validate()
    lost = user.connected()
    assert lost["state"] == "reauth_required"
    assert lost["reason"]

    again = user.connect(browser)
    assert again["state"] == "connected"
    assert again["id"] == before["id"]
    assert user.validate()


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
    user: User, browser: Browser, openid: OpenIdProvider
) -> None:
    """At the time from which on whoever needs the token renews it, the sweep too."""
    openid.issue_for(4)
    connection = user.connect(browser)
    openid.issue_for(3600)
    sleep_until(datetime.fromisoformat(connection["token_expiry"]).timestamp() - 2)

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: user.validate(), range(8), timeout=90))

    assert answers == [True] * 8
    assert [call["status"] for call in user.refreshes()] == [200]
    renewed = user.connected()
    assert renewed["state"] == "connected"
    assert renewed["revision"] > connection["revision"]
    assert datetime.fromisoformat(renewed["token_expiry"]).timestamp() > time.time() + 3000


def test_the_sweep_renews_in_time_and_what_was_rotated_is_kept(
    home: Path, openid: OpenIdProvider, browser: Browser
) -> None:
    environment = openid.dropped_into(home / "manifests")
    account = f"u{uuid4().hex[:8]}"
    lifetime = 20  # of which starting anew takes a good part on a busy machine
    openid.issue_for(lifetime)
    with control_plane(home, **environment) as plane:
        User(account=account, api=plane.api, provider=openid).connect(browser)
    openid.issue_for(1)
    # Started anew, so that it refreshes with what it stored; nobody asks it to.
    with control_plane(home, **environment) as plane:
        user = User(account=account, api=plane.api, provider=openid)
        by_the_sweep = user.refreshes(count=1)[0]
        openid.issue_for(3600)
        # The provider counts whole seconds, from before Aura has the token.
        sleep_until(openid.issued(account, "access_token")[1]["expires_at"] / 1000 + 1)
        assert user.validate()

    first = openid.issued(account, "access_token")[0]
    assert first["expires_at"] - lifetime * 1000 < by_the_sweep["at"] < first["expires_at"]
    assert [call["status"] for call in user.refreshes()] == [200, 200]
    rotated = openid.issued(account, "refresh_token")
    assert [openid.is_active(token) for token in rotated] == [False, False, True]


def sleep_until(instant: float) -> None:
    """The end of a token is an instant (seconds since 1970) that nothing announces."""
    time.sleep(max(0.0, instant - time.time()))


# --- disconnecting -----------------------------------------------------------------------------


def test_disconnecting_ends_the_tokens_at_the_provider(
    user: User, browser: Browser, openid: OpenIdProvider
) -> None:
    user.connect(browser)
    tokens = [
        *openid.issued(user.account, "access_token"),
        *openid.issued(user.account, "refresh_token"),
    ]
    assert [openid.is_active(token) for token in tokens] == [True, True]

    receipt = user.api.delete(PATH).json()

    assert [openid.is_active(token) for token in tokens] == [False, False]
    outcomes = {line["token"]: line["outcome"] for line in receipt["tokens"]}
    assert outcomes == {"access_token": "revoked", "refresh_token": "revoked"}
    ended = user.connected()
    assert ended["state"] == "disconnected"
    assert ended["receipt"] == receipt
    assert user.api.post(f"{PATH}/validate").status_code == 409


def test_disconnecting_again_answers_the_same_and_asks_nobody(
    user: User, browser: Browser, openid: OpenIdProvider
) -> None:
    user.connect(browser)
    receipt = user.api.delete(PATH).json()
    asked = len(openid.calls(endpoint="revocation"))

    again = user.api.delete(PATH)

    assert again.status_code == 200
    assert again.json() == receipt
    assert len(openid.calls(endpoint="revocation")) == asked


def test_disconnecting_from_a_provider_that_is_gone_says_so(home: Path, browser: Browser) -> None:
    with ExitStack() as control:
        with openid_provider(home / "provider.log") as gone:
            environment = gone.dropped_into(home / "manifests")
            plane = control.enter_context(control_plane(home, **environment))
            user = User(account="u1", api=plane.api, provider=gone)
            user.connect(browser)
        receipt = user.api.delete(PATH).json()
        ended = user.connected()

    assert {line["token"] for line in receipt["tokens"]} == {"access_token", "refresh_token"}
    assert {line["outcome"] for line in receipt["tokens"]} == {"failed"}
    assert all(line["detail"] for line in receipt["tokens"])
    assert ended["state"] == "disconnected"
