"""The twin against the client side: what is declared works, and everything else is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import (
    Connected,
    Context,
    OAuthClientSettings,
    TokenAnswer,
    default_adapter,
)
from aura_core.api import BoundApi, http_client
from aura_core.credentials import bind
from aura_core.errors import (
    ConfigurationError,
    ProviderRejected,
    ProviderUnavailable,
    ReauthorizationRequired,
)
from aura_core.manifest import Manifest
from aura_core.registry import Integration, Registry
from aura_core.testing.twin import (
    Example,
    Fault,
    Twin,
    TwinAccount,
    consent,
    create_twin,
    digest,
)
from aura_core.testing.twin_server import running_twin, serve_twin
from tests.core.providers import CLIENT_SECRET, NOW, envelope, oauth_manifest, secrets

ORIGIN = "http://127.0.0.1:9000"
BACK = "https://aura.example/callback"
CLIENT = OAuthClientSettings(client_id="client-1", client_secret=SecretStr(CLIENT_SECRET))


@dataclass
class Side:
    """Both sides of a test: the context of the client's, and the twin."""

    ctx: Context
    twin: Twin
    now: datetime = NOW

    async def callback(self, **options: Any) -> dict[str, str]:
        self.verifier = oauth.new_verifier()
        url = oauth.authorization_url(
            self.ctx, redirect_uri=BACK, state="st", verifier=self.verifier
        )
        back = await consent(self.ctx.http, url, **options)
        assert back.startswith(BACK + "?")
        return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}

    async def exchange(self, given: dict[str, str], **changed: Any) -> TokenAnswer:
        options = {"code": given["code"], "redirect_uri": BACK, "verifier": self.verifier}
        return await oauth.exchange_code(self.ctx, **{**options, **changed}, callback_params=given)

    async def connect(self) -> TokenAnswer:
        return await self.exchange(await self.callback())


@asynccontextmanager
async def side(manifest: Manifest, **options: Any) -> AsyncIterator[Side]:
    chosen: dict[str, Any] = {"client": CLIENT, **options}
    holder: list[Side] = []
    app = create_twin(manifest, origin=ORIGIN, clock=lambda: holder[0].now, **chosen)
    async with http_client(transport=httpx.ASGITransport(app)) as http:
        relocated = manifest.relocated(ORIGIN)
        ctx = Context(
            manifest=relocated,
            method=relocated.auth_method(),
            http=http,
            now=lambda: holder[0].now,
            client=CLIENT,
        )
        holder.append(Side(ctx=ctx, twin=app.state.twin))
        yield holder[0]


def held(answer: TokenAnswer) -> dict[str, str]:
    found = {"access_token": answer.access_token.get_secret_value()}
    if answer.refresh_token is not None:
        found["refresh_token"] = answer.refresh_token.get_secret_value()
    return found


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


DEVIATIONS = {
    "names": {
        "authorization": 'renames = { client_id = "client_key", response_type = "" }\n'
        'code_param = "auth_code"',
        "token": 'renames = { client_id = "app_id", code = "auth_code", grant_type = "" }',
    },
    "JSON": {"token": 'body = "json"\nauth = "client_secret_basic"'},
    "query": {"token": 'method = "GET"\nbody = "query"'},
    "public": {"token": 'auth = "none"'},
    "plain": {"authorization": 'pkce = "required"\npkce_method = "plain"'},
    "no PKCE": {"authorization": 'pkce = "omit"'},
    "commas": {"authorization": 'scope_delimiter = ","'},
    "answer": {
        "tables": '[auth.token.response]\naccess_token_path = "data.token"\n'
        'refresh_token_path = "data.renew"\nexpires_path = "data.until"\nexpires_kind = "iso8601"\n'
        'scope_delimiter = ","\nsuccess_statuses = [201]\nmetadata = { team = "team.id" }'
    },
    "form": {"tables": '[auth.token.response]\nformat = "form"'},
    "headers": {
        "tables": '[auth.token.response]\nfrom_headers = { access_token = "X-At" }\n'
        'from_cookies = { refresh_token = "R" }'
    },
    "exchange": {
        "refresh": 'mode = "exchange"\ntoken_param = "old"\ndrop_params = ["client_id", '
        '"client_secret"]'
    },
    "refresh URL": {"refresh": 'url = "https://login.acme.example/refresh"'},
    "ok": {"tables": '[auth.token.response.error]\npath = "ok"\nok = true\ncode_path = "error"'},
}


@pytest.mark.parametrize("changed", DEVIATIONS.values(), ids=DEVIATIONS.keys())
async def test_twin_and_client_read_a_deviation_alike(changed: dict[str, str]) -> None:
    async with side(oauth_manifest(**changed)) as both:
        given = await both.callback()
        code = given.pop("auth_code", None) or given.pop("code")
        answer = await both.exchange({**given, "code": code})
        assert answer.scopes == ("read", "write")
        assert answer.expires_at == NOW + timedelta(hours=1)
        fresh = await oauth.refresh(both.ctx, envelope(**held(answer)))
        assert fresh.access_token.get_secret_value() != answer.access_token.get_secret_value()
        with pytest.raises((ReauthorizationRequired, ProviderRejected)):
            await both.exchange({**given, "code": "made-up"})


async def test_an_error_in_200_is_what_the_manifest_says() -> None:
    async with side(oauth_manifest(**DEVIATIONS["ok"])) as both:
        both.verifier = "v" * 64
        with pytest.raises(ReauthorizationRequired):
            await both.exchange({"code": "made-up"})
        (record,) = both.twin.journal.of("token")
        assert record.status == 200
        assert record.error == "invalid_grant"


async def test_the_journal_tells_all_but_secrets() -> None:
    async with side(oauth_manifest()) as both:
        given = await both.callback()
        await both.exchange(given)
        ask, decide, token = both.twin.journal.records
        assert (ask.endpoint, ask.method, ask.host) == (
            "authorization", "GET", "login.acme.example"
        )  # fmt: skip
        assert decide.status == 303
        assert token.params["grant_type"] == "authorization_code"
        assert token.params["code"] == digest(given["code"])
        text = repr(both.twin.journal.records)
        assert given["code"] not in text
        assert CLIENT_SECRET not in text
        assert both.verifier not in text


async def test_faults() -> None:
    manifest = oauth_manifest(refresh='rotation = "single_use"\nreuse = "revokes_family"')
    async with side(manifest) as both:
        first = held(await both.connect())
        both.twin.faults.append(Fault(endpoint="token"))
        with pytest.raises(ProviderUnavailable):
            await oauth.refresh(both.ctx, envelope(**first))
        both.twin.faults.append(Fault(endpoint="token", after=True))
        with pytest.raises(ProviderUnavailable):
            await oauth.refresh(both.ctx, envelope(**first))
        with pytest.raises(ReauthorizationRequired):  # the lost answer had used it up
            await oauth.refresh(both.ctx, envelope(**first))


@pytest.fixture(scope="module")
def elevenlabs() -> Integration:
    return Registry.discover().open("elevenlabs")


async def test_a_key_is_taken_in_its_place_only(elevenlabs: Integration) -> None:
    async with side(elevenlabs.manifest, client=None) as both:
        key = SecretStr("twin-api_key-1001")
        connected = await elevenlabs.adapter.connect_with_fields(both.ctx, {"api_key": key})
        assert connected.account_id == "1001"
        with pytest.raises(ProviderRejected):
            await elevenlabs.adapter.connect_with_fields(
                both.ctx, {"api_key": SecretStr("twin-api_key-9999")}
            )
        url = both.ctx.manifest.locate("https://api.elevenlabs.io/v1/user")
        bearer = {"Authorization": f"Bearer {key.get_secret_value()}"}
        assert (await both.ctx.http.get(url, headers=bearer)).status_code == 401
        assert "twin-api_key-1001" in (await both.ctx.http.get(ORIGIN)).text


def test_a_running_twin_is_reached_over_the_network_and_stops() -> None:
    with running_twin(oauth_manifest()) as twin:
        page = httpx.get(twin.origin, trust_env=False)
        assert page.status_code == 200
        assert f"AURA_TWINS=acme={twin.origin}" in page.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(twin.origin, trust_env=False)


async def test_serving_a_twin_ends_when_cancelled() -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_twin(oauth_manifest(), ready=ready.set_result))
    origin = await ready
    async with http_client() as http:
        assert (await http.get(origin)).status_code == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with http_client() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(origin)
