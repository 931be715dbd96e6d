"""The twin against the client side: what is declared works, and everything else is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import (
    Connected,
    OAuthClientSettings,
    default_adapter,
)
from aura_core.api import BoundApi
from aura_core.credentials import bind
from aura_core.errors import (
    ConfigurationError,
    ProviderRejected,
    ReauthorizationRequired,
)
from aura_core.testing.twin import (
    Example,
    TwinAccount,
)
from tests.core.providers import CLIENT_SECRET, NOW, envelope, oauth_manifest, secrets
from tests.core.sides import BACK, held, side


async def test_connect_refresh_revoke_call() -> None:
    manifest = oauth_manifest(
        authorization='issuer = "https://acme.example"',
        tables="""
[auth.userinfo]
url = "https://api.acme.example/me"
metadata = { email = "email", team = "org.team" }
account_path = "id"
[auth.revocation]
url = "https://login.acme.example/revoke"
""",
    )
    examples = [Example(host="api.acme.example", path="/things/*", body={"day": "{{today+1}}"})]
    async with side(manifest, examples=examples) as both:
        given = await both.callback()
        assert given["state"] == "st"
        assert given["iss"] == "https://acme.example"
        answer = await both.exchange(given)
        adapter = default_adapter(manifest)
        connected: Connected = await adapter.process_oauth_tokens(both.ctx, answer)
        assert connected.metadata == {"email": "robin@example.com", "team": "twin-team"}
        assert connected.account_id == "1001"
        assert connected.scopes == ("read", "write")
        assert connected.token_expiry == NOW + timedelta(hours=1)

        def api(token: str) -> BoundApi:
            return BoundApi(
                bind(both.ctx.manifest, both.ctx.method, {}),
                secrets(access_token=token),
                both.ctx.http,
            )

        token = held(answer)["access_token"]
        assert await api(token).get("/things/1") == {"day": "2026-03-02"}
        with pytest.raises(ProviderRejected, match="no example for GET"):
            await api(token).get("/other")
        with pytest.raises(ReauthorizationRequired):
            await api("made-up-token").get("/things/1")

        fresh = await oauth.refresh(both.ctx, envelope(**held(answer)))
        assert held(fresh)["access_token"] != token
        receipt = await oauth.revoke(both.ctx, envelope(**{**held(answer), **held(fresh)}))
        assert {line.outcome for line in receipt} == {"revoked"}
        with pytest.raises(ReauthorizationRequired):
            await api(held(fresh)["access_token"]).get("/things/1")


async def test_the_access_token_expires() -> None:
    async with side(oauth_manifest(), lifetime=60) as both:
        answer = await both.connect()
        assert answer.expires_at == NOW + timedelta(seconds=60)
        api = BoundApi(
            bind(both.ctx.manifest, both.ctx.method, {}),
            {"access_token": answer.access_token},
            both.ctx.http,
        )
        both.now += timedelta(seconds=60)
        with pytest.raises(ReauthorizationRequired):
            await api.get("/")


async def test_denied_by_the_user() -> None:
    async with side(oauth_manifest()) as both:
        assert await both.callback(deny=True) == {"error": "access_denied", "state": "st"}


async def test_fewer_scopes_and_another_account() -> None:
    people = (TwinAccount(), TwinAccount(id="1002", email="kim@example.com", name="Kim"))
    async with side(oauth_manifest(), accounts=people) as both:
        answer = await both.exchange(await both.callback(scopes=["read"], account="1002"))
        assert answer.scopes == ("read",)


@pytest.mark.parametrize(
    "changed",
    [{"code": "made-up"}, {"redirect_uri": BACK + "/"}, {"verifier": "w" * 64}, {"verifier": None}],
)
async def test_a_code_is_bound(changed: dict[str, Any]) -> None:
    async with side(oauth_manifest()) as both:
        given = await both.callback()
        with pytest.raises(ReauthorizationRequired):
            await both.exchange(given, **changed)


async def test_a_code_is_good_once_and_not_for_long() -> None:
    async with side(oauth_manifest()) as both:
        given = await both.callback()
        answer = await both.exchange(given)
        with pytest.raises(ReauthorizationRequired, match="used before"):
            await both.exchange(given)
        with pytest.raises(ReauthorizationRequired):  # and what came of it is revoked
            await oauth.refresh(both.ctx, envelope(**held(answer)))
        given = await both.callback()
        both.now += timedelta(minutes=11)
        with pytest.raises(ReauthorizationRequired, match="expired"):
            await both.exchange(given)


async def test_an_unregistered_redirect_uri_is_never_followed() -> None:
    async with side(oauth_manifest(), redirect_uris=[BACK + "2"]) as both:
        with pytest.raises(ProviderRejected, match="exactly"):
            await both.callback()


async def test_a_client_must_be_the_registered_one() -> None:
    other = OAuthClientSettings(client_id="client-1", client_secret=SecretStr("another secret"))
    async with side(oauth_manifest(), client=other) as both:
        given = await both.callback()
        with pytest.raises(ConfigurationError):
            await both.exchange(given)
    renamed = OAuthClientSettings(client_id="client-2", client_secret=SecretStr(CLIENT_SECRET))
    async with side(oauth_manifest()) as both:
        given = await both.callback()
        both.ctx = replace(both.ctx, client=renamed)
        with pytest.raises(ConfigurationError):
            await both.exchange(given)
    stranger = OAuthClientSettings(client_id="stranger")
    async with side(oauth_manifest(), client=stranger) as both:
        with pytest.raises(ProviderRejected, match="not registered"):
            await both.callback()


async def test_a_consent_page_is_good_once() -> None:
    async with side(oauth_manifest()) as both:
        url = oauth.authorization_url(both.ctx, redirect_uri=BACK, state="s", verifier="v" * 64)
        page = await both.ctx.http.get(url)
        assert "<script" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        ticket = page.text.split('name="ticket" value="')[1].split('"')[0]
        form = {"ticket": ticket, "decision": "allow", "account": "1001"}
        assert (await both.ctx.http.post(url, data=form)).status_code == 303
        assert (await both.ctx.http.post(url, data=form)).status_code == 400


@pytest.mark.parametrize(
    ("rotation", "reuse", "again", "family_lives"),
    [
        ("none", "grace", True, True),
        ("optional", "unknown", True, True),
        ("single_use", "grace", True, True),
        ("single_use", "rejected", False, True),
        ("single_use", "revokes_family", False, False),
    ],
)
async def test_rotation_and_reuse(
    rotation: str, reuse: str, again: bool, family_lives: bool
) -> None:
    manifest = oauth_manifest(refresh=f'rotation = "{rotation}"\nreuse = "{reuse}"')
    async with side(manifest) as both:
        first = held(await both.connect())
        second = held(await oauth.refresh(both.ctx, envelope(**first)))
        assert ("refresh_token" in second) == (rotation != "none")
        if again:
            third = held(await oauth.refresh(both.ctx, envelope(**first)))
            assert (third == second) == (rotation == "single_use")
        else:
            with pytest.raises(ReauthorizationRequired):
                await oauth.refresh(both.ctx, envelope(**first))
        if family_lives:
            await oauth.refresh(both.ctx, envelope(**{**first, **second}))
        else:
            with pytest.raises(ReauthorizationRequired):
                await oauth.refresh(both.ctx, envelope(**second))


async def test_grace_ends() -> None:
    manifest = oauth_manifest(refresh='rotation = "single_use"\nreuse = "grace"')
    async with side(manifest) as both:
        first = held(await both.connect())
        await oauth.refresh(both.ctx, envelope(**first))
        both.now += timedelta(seconds=61)
        with pytest.raises(ReauthorizationRequired):
            await oauth.refresh(both.ctx, envelope(**first))


async def test_offline_access_is_given_to_those_who_ask_for_it() -> None:
    async with side(oauth_manifest(authorization='offline_scope = "offline"')) as both:
        given = await both.callback(scopes=["read"])
        assert (await both.exchange(given)).refresh_token is not None
    manifest = oauth_manifest(authorization='params = { access_type = "offline" }')
    async with side(manifest) as both:
        both.ctx = replace(both.ctx, method=oauth_manifest().auth_method())
        assert (await both.connect()).refresh_token is None
