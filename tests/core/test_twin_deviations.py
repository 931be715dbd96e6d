"""What real providers do to their URLs and redirects, as the twin does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from aura_core.adapter import default_adapter
from aura_core.errors import ProviderRejected
from tests.core.providers import manifest_with, oauth_manifest, secrets
from tests.core.sides import BACK, side

_PATH = """
strategy = "api_key"
placements = [{ at = "path", name = "key", format = "bot{api_key}" }]
[auth.verify]
url = "https://api.acme.example/getMe"
account_path = "id"
"""


async def test_a_key_in_the_path_stands_in_front_of_every_call() -> None:
    manifest = manifest_with(_PATH)
    async with side(manifest) as both:
        adapter = default_adapter(manifest)
        connected = await adapter.connect_with_fields(
            both.ctx, secrets(api_key="twin-api_key-1001")
        )
        assert connected.account_id == "1001"
        (record,) = both.twin.journal.records
        assert record.path == "/bottwin-api_key-1001/getMe"
        for wrong in ("twin-api_key-1002", "x"):
            with pytest.raises(ProviderRejected):
                await adapter.connect_with_fields(both.ctx, secrets(api_key=wrong))


async def test_one_url_may_be_for_the_browser_and_for_tokens() -> None:
    manifest = oauth_manifest(authorization_url="https://login.acme.example/token")
    async with side(manifest) as both:
        answer = await both.connect()
        assert answer.refresh_token is not None
        kinds = [record.endpoint for record in both.twin.journal.records]
        assert kinds == ["authorization", "authorization", "token"]


async def test_one_url_may_answer_several_calls() -> None:
    manifest = oauth_manifest(
        tables="""
[auth.verify]
url = "https://api.acme.example/accounts"
account_path = "[0].owner"
[[auth.discover]]
url = "https://api.acme.example/accounts"
metadata = { account_id = "[0].id" }
[[auth.variables]]
name = "account_id"
provided_by = "discovery"
""",
        base_url="https://api.acme.example/{account_id}",
    )
    async with side(manifest) as both:
        connected = await default_adapter(manifest).process_oauth_tokens(
            both.ctx, await both.connect()
        )
        assert connected.variables == {"account_id": "1001"}


_ALIAS = 'params = { redirect_uri = "{alias}" }'


@pytest.mark.parametrize(
    ("token", "fits"), [(_ALIAS, True), ("", False)], ids=["sent with the code too", "forgotten"]
)
async def test_a_provider_may_have_a_name_for_the_registered_redirect_uri(
    token: str, fits: bool
) -> None:
    manifest = oauth_manifest(
        authorization=_ALIAS, token=token, tables='[[auth.variables]]\nname = "alias"\n'
    )
    async with side(manifest, redirect_uris=[BACK]) as both:
        both.ctx = replace(both.ctx, variables={"alias": "Acme-App-1"})
        given = await both.callback()
        if fits:
            assert (await both.exchange(given)).refresh_token is not None
            return
        with pytest.raises(Exception, match="redirect URI"):
            await both.exchange(given)


async def test_an_alias_of_nothing_leads_nowhere() -> None:
    manifest = oauth_manifest(authorization=_ALIAS, tables='[[auth.variables]]\nname = "alias"\n')
    async with side(manifest) as both:
        both.ctx = replace(both.ctx, variables={"alias": "Acme-App-1"})
        with pytest.raises(ProviderRejected, match="Wrong redirect URI"):
            await both.callback()


_WHERE = """
strategy = "oauth2_client_credentials"
[auth.token]
url = "https://login.acme.example/token"
response = { metadata = { instance = "instance" } }
[auth.verify]
url = "https://{instance}.acme.example/ping"
[[auth.variables]]
name = "instance"
provided_by = "token_response"
"""


async def test_the_tokens_answer_may_say_where_the_api_is() -> None:
    manifest = manifest_with(
        _WHERE, hosts='["{instance}.acme.example"]', base="https://{instance}.acme.example"
    )
    fields: Mapping[str, str] = {
        "client_id": "twin-client_id-1001",
        "client_secret": "twin-client_secret-1001",
    }
    async with side(manifest) as both:
        adapter = default_adapter(manifest)
        assert (await adapter.validate_api_key(both.ctx, secrets(**fields))).valid
        connected = await adapter.connect_with_fields(both.ctx, secrets(**fields))
        assert connected.variables == {"instance": "twin"}
        assert {record.host for record in both.twin.journal.of("call")} == {"twin.acme.example"}
