"""Twins of providers that deviate, what a twin notes down, and serving one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from aura_core import oauth
from aura_core.api import http_client
from aura_core.errors import (
    ProviderRejected,
    ProviderUnavailable,
    ReauthorizationRequired,
)
from aura_core.registry import Integration, Registry
from aura_core.testing.twin import (
    Fault,
    digest,
)
from aura_core.testing.twin_server import running_twin, serve_twin
from tests.core.providers import CLIENT_SECRET, NOW, envelope, oauth_manifest
from tests.core.sides import ORIGIN, held, side

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
