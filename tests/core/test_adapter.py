"""The base adapter's sequence: what becomes of an authorization, and what leaves for machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import respx
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import (
    ApiKeyAdapter,
    IntegrationAdapter,
    OAuthAdapter,
    TokenAnswer,
    WebhookAdapter,
    binding,
    default_adapter,
)
from aura_core.errors import (
    ConfigurationError,
    InvalidInput,
    NotFound,
    ReauthorizationRequired,
)
from aura_core.manifest import Placement
from aura_core.tools import ToolApi, tool
from tests.core.providers import (
    TOKEN_URL,
    context,
    declared,
    envelope,
    manifest_with,
    oauth_manifest,
)

SKILL = '[skill]\ndir_name = "acme-skill"\ncommand = "acme"\ndescription = "Use Acme well."'
TOKENS = TokenAnswer(
    access_token=SecretStr("at-1"), refresh_token=SecretStr("rt-1"), metadata={"instance": "i"}
)


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        ('strategy = "api_key"', ApiKeyAdapter),
        ('strategy = "basic"', ApiKeyAdapter),
        ('strategy = "webhook"\nsignature_header = "X"\nscheme = "stripe"', WebhookAdapter),
        ('strategy = "oauth1"\nneeds_code = "It signs."', IntegrationAdapter),
    ],
)
def test_the_default_adapter_is_for_the_strategy(auth: str, kind: type[IntegrationAdapter]) -> None:
    adapter = default_adapter(manifest_with(auth))
    assert type(adapter) is kind
    assert adapter.id == "acme"
    assert type(default_adapter(oauth_manifest())) is OAuthAdapter


async def test_userinfo_and_discovery_make_the_connection() -> None:
    facts = oauth_manifest(
        base_url="https://api.acme.example/{cloud_id}",
        tables="""
[[auth.variables]]
name = "cloud_id"
provided_by = "discovery"
pattern = "[a-z0-9-]+"
[auth.userinfo]
url = "https://api.acme.example/me"
metadata = { email = "mail" }
account_path = "sub"
[[auth.discover]]
url = "https://api.acme.example/resources"
metadata = { cloud_id = "[0].id", site = "[0].name" }
""",
    )
    with respx.mock:
        me = respx.get("https://api.acme.example/me").respond(json={"mail": "a@b.c", "sub": 17})
        respx.get("https://api.acme.example/resources").respond(json=[{"id": "c-1", "name": "S"}])
        async with context(facts) as ctx:
            connected = await default_adapter(facts).process_oauth_tokens(ctx, TOKENS)
    assert me.calls.last.request.headers["authorization"] == "Bearer at-1"
    assert connected.account_id == "17"
    assert connected.variables == {"cloud_id": "c-1"}
    assert connected.metadata == {
        "instance": "i", "email": "a@b.c", "cloud_id": "c-1", "site": "S"
    }  # fmt: skip
    assert connected.scopes == ("read", "write")
    assert set(connected.secrets) == {"access_token", "refresh_token"}


INSTANCE = """
[[auth.variables]]
name = "instance_url"
provided_by = "token_response"
url = true
[auth.token.response]
metadata = { instance_url = "instance_url" }
"""


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("https://na1.acme.example", True),
        ("https://na1.acme.example/", True),
        ("https://na1.acme.example/rest/v2/", True),
        ("https://na1.evil.example", False),
        ("https://na1.acme.example/../x", False),
        ("http://na1.acme.example", False),
        ("https://x.na1.acme.example", False),
        ("https://na1.acme.example@evil.example", False),
        ("https://169.254.169.254", False),
    ],
)
async def test_an_answer_may_name_only_hosts_of_the_manifest(value: str, accepted: bool) -> None:
    facts = oauth_manifest(base_url="{instance_url}", hosts='["*.acme.example"]', tables=INSTANCE)
    tokens = TokenAnswer(access_token=SecretStr("at-1"), metadata={"instance_url": value})
    async with context(facts) as ctx:
        connecting = default_adapter(facts).process_oauth_tokens(ctx, tokens)
        if not accepted:
            with pytest.raises(InvalidInput) as caught:
                await connecting
            assert value not in str(caught.value)
            return
        connected = await connecting
    assert connected.variables == {"instance_url": value.rstrip("/")}


async def test_callback_values_are_kept_and_become_variables() -> None:
    facts = oauth_manifest(
        base_url="https://api.acme.example/{realm_id}",
        authorization='callback_metadata = ["realmId", "note"]',
        tables='[[auth.variables]]\nname = "realm_id"\nprovided_by = "callback"\n',
    )
    with respx.mock:
        respx.post(TOKEN_URL).respond(json={"access_token": "at-1"})
        async with context(facts) as ctx:

            async def connect(**given: str) -> Any:
                tokens = await oauth.exchange_code(
                    ctx, code="c", redirect_uri="https://a/", verifier="v", callback_params=given
                )
                return await default_adapter(facts).process_oauth_tokens(ctx, tokens)

            connected = await connect(realmId="42", note="hi", other="x")
            with pytest.raises(InvalidInput):
                await connect(realmId="../42")
    assert connected.metadata == {"realmId": "42", "note": "hi"}
    assert connected.variables == {"realm_id": "42"}


async def test_steps_after_the_exchange_give_the_usable_token() -> None:
    facts = oauth_manifest(
        hosts='["rest.acme.example"]',
        base_url="{rest_url}",
        refresh="repeats_steps = true",
        tables="""
[[auth.variables]]
name = "rest_url"
provided_by = "token_response"
url = true
[[auth.after_exchange]]
url = "https://login.acme.example/session"
method = "GET"
params = { access_token = "{access_token}" }
captures = { access_token = "BhRestToken", rest_url = "restUrl", secret_note = "note" }
[auth.token.response]
metadata = {}
""",
    )
    session = {"BhRestToken": "session-1", "restUrl": "https://rest.acme.example/x/", "note": "n"}
    with respx.mock:
        respx.post(TOKEN_URL).respond(json={"access_token": "at-1", "refresh_token": "rt-1"})
        step = respx.get("https://login.acme.example/session").respond(json=session)
        async with context(facts) as ctx:
            tokens = await oauth.exchange_code(
                ctx, code="c", redirect_uri="https://a/", verifier="v"
            )
            assert step.calls.last.request.url.params["access_token"] == "at-1"
            connected = await default_adapter(facts).process_oauth_tokens(ctx, tokens)
            assert connected.secrets["access_token"].get_secret_value() == "session-1"
            assert connected.secrets["refresh_token"].get_secret_value() == "rt-1"
            assert connected.variables == {"rest_url": "https://rest.acme.example/x"}
            assert "secret_note" not in connected.metadata
            fresh = await oauth.refresh(ctx, envelope(refresh_token="rt-1"))
    assert fresh.access_token.get_secret_value() == "session-1"


async def test_the_binding_holds_public_values_only() -> None:
    facts = oauth_manifest(api='headers = { Client-Id = "{client_id}" }')
    async with context(facts) as ctx:
        assert binding(ctx, {}).headers == {"Client-Id": "client-1"}
    secret = oauth_manifest(api='headers = { X = "{client_secret}" }')
    async with context(secret) as ctx:
        with pytest.raises(ConfigurationError, match="client_secret"):
            binding(ctx, {})


async def test_machines_never_get_what_renews() -> None:
    facts = oauth_manifest(tables=SKILL)
    async with context(facts) as ctx:
        for name in ("refresh_token", "client_secret"):
            # No manifest can say so: this is the wall behind that wall.
            placed = Placement(at="header", name="X", format="{" + name + "}")
            method = ctx.method.model_copy(update={"placements": (placed,)})
            with pytest.raises(ConfigurationError, match="must not leave"):
                default_adapter(facts).build_vm_credential_payload(
                    replace(ctx, method=method), envelope(refresh_token="r"), connection_revision=1
                )
        with pytest.raises(ReauthorizationRequired, match="no access_token"):
            default_adapter(facts).build_vm_credential_payload(
                ctx, envelope(refresh_token="rt-1"), connection_revision=1
            )


async def test_a_machine_may_hold_the_clients_id() -> None:
    auth = (
        'placements = [{ at = "header", name = "Authorization", format = "Bearer {access_token}" },'
        ' { at = "header", name = "X-Key", format = "{client_id}" }]'
    )
    facts = oauth_manifest(auth=auth, tables=SKILL)
    async with context(facts) as ctx:
        payload = default_adapter(facts).build_vm_credential_payload(
            ctx, envelope(access_token="at-1", refresh_token="rt-1"), connection_revision=1
        )
    assert payload is not None
    fields = {name: value.get_secret_value() for name, value in payload.fields.items()}
    assert fields == {"access_token": "at-1", "client_id": "client-1"}
    assert payload.binding.public_fields == ("client_id",)


async def test_environments_change_every_url() -> None:
    tables = declared("environment", 'choices = ["sandbox"]\nrequired = false') + (
        '[auth.verify]\nurl = "https://api.acme.example/me"\n'
        '[[environments]]\nid = "sandbox"\nlabel = "Sandbox"\nhosts = ["api.sandbox.example"]\n'
        'replaces = { "https://api.acme.example" = "https://api.sandbox.example" }\n'
    )
    facts = oauth_manifest(tables=tables)
    async with context(facts, variables={"environment": "sandbox"}) as ctx:
        assert ctx.method.verify is not None
        assert ctx.method.verify.url == "https://api.sandbox.example/me"
        assert binding(ctx, {}).base_url == "https://api.sandbox.example"
        assert binding(ctx, {}).hosts == ("api.sandbox.example",)
    with pytest.raises(ConfigurationError, match="no environment"):
        async with context(facts, variables={"environment": "moon"}):
            pass


@tool
async def double(api: ToolApi, number: int) -> int:
    """Twice the number."""
    return number * 2


async def test_chat_tools() -> None:
    adapter = IntegrationAdapter("acme")
    (definition,) = adapter.get_chat_tools([double])
    assert definition["function"]["name"] == "double"
    api = object()
    assert await adapter.execute_chat_tool([double], "double", {"number": 4}, api) == 8  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await adapter.execute_chat_tool([double], "triple", {}, api)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        await adapter.execute_chat_tool([double], "double", {"number": "x"}, api)  # type: ignore[arg-type]
