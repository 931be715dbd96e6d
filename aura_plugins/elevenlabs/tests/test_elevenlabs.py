"""ElevenLabs: a key that is checked, kept here, and never put on a machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import respx
from pydantic import SecretStr

from aura_core.adapter import Context
from aura_core.api import http_client
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import InvalidInput, ProviderRejected, ProviderUnavailable
from aura_core.registry import Integration, Registry

USER = "https://api.elevenlabs.io/v1/user"
KEY = "sk_0123456789abcdef"
ACCOUNT = {
    "user_id": "u-17",
    "subscription": {"tier": "creator", "character_count": 1200, "character_limit": 100_000},
}


@pytest.fixture(scope="module")
def elevenlabs() -> Integration:
    return Registry.discover().open("elevenlabs")


@pytest.fixture
async def ctx(elevenlabs: Integration) -> AsyncIterator[Context]:
    async with http_client() as http:
        yield Context(
            manifest=elevenlabs.manifest,
            method=elevenlabs.manifest.auth_method(),
            http=http,
            now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        )


async def test_connecting_checks_the_key(
    elevenlabs: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    route = respx_mock.get(USER).respond(json=ACCOUNT)
    connected = await elevenlabs.adapter.connect_with_fields(ctx, {"api_key": SecretStr(KEY)})
    assert route.calls.last.request.headers["xi-api-key"] == KEY
    assert "authorization" not in route.calls.last.request.headers
    assert connected.metadata == {
        "userId": "u-17",
        "subscription": "creator",
        "characterCount": 1200,
        "characterLimit": 100_000,
    }
    assert connected.account_id == "u-17"
    assert connected.token_expiry is None
    assert {k: v.get_secret_value() for k, v in connected.secrets.items()} == {"api_key": KEY}


async def test_a_key_that_does_not_work_is_refused_with_the_reason(
    elevenlabs: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    detail = {"status": "missing_permissions", "message": f"The key {KEY} lacks user_read."}
    respx_mock.get(USER).respond(401, json={"detail": detail})
    fields = {"api_key": SecretStr(KEY)}
    with pytest.raises(ProviderRejected, match=r"The key \*\*\* lacks user_read"):
        await elevenlabs.adapter.connect_with_fields(ctx, fields)
    validation = await elevenlabs.adapter.validate_api_key(ctx, fields)
    assert validation.valid is False
    assert KEY not in str(validation)


async def test_a_provider_that_fails_says_nothing_of_the_key(
    elevenlabs: Integration, ctx: Context, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get(USER).mock(return_value=httpx.Response(503))
    with pytest.raises(ProviderUnavailable):
        await elevenlabs.adapter.validate_api_key(ctx, {"api_key": SecretStr(KEY)})


@pytest.mark.parametrize("fields", [{}, {"api_key": ""}, {"api_key": KEY, "other": "x"}])
async def test_other_fields_are_refused_without_asking(
    elevenlabs: Integration, ctx: Context, fields: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput):
        await elevenlabs.adapter.connect_with_fields(
            ctx, {name: SecretStr(value) for name, value in fields.items()}
        )


async def test_it_never_reaches_a_machine(elevenlabs: Integration, ctx: Context) -> None:
    held = CredentialEnvelope(
        integration_id="c",
        user_id="u",
        provider="elevenlabs",
        auth_id="api_key",
        secrets={"api_key": SecretStr(KEY)},
    )
    adapter = elevenlabs.adapter
    assert adapter.build_vm_credential_payload(ctx, held, connection_revision=1) is None
    assert adapter.get_vm_skill_manifest(elevenlabs.manifest, (), "") is None
    assert adapter.get_chat_tools(elevenlabs.tools) == []
    assert adapter.get_oauth_config(ctx) is None
    assert await adapter.refresh_token(ctx, held) is None
    (line,) = await adapter.on_disconnect(ctx, held)
    assert (line.token, line.outcome) == ("api_key", "not_offered")
