"""The base adapter's sequence, for every way to authenticate that a manifest can declare."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import respx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey
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
    ProviderRejected,
    ReauthorizationRequired,
)
from aura_core.manifest import Manifest, load_manifest
from aura_core.tools import ToolApi, tool
from tests.core.providers import NOW, TOKEN_URL, context, envelope, form, oauth_manifest, secrets

SKILL = '[skill]\ndir_name = "acme-skill"\ncommand = "acme"\ndescription = "Use Acme well."'
TOKENS = TokenAnswer(
    access_token=SecretStr("at-1"), refresh_token=SecretStr("rt-1"), metadata={"instance": "i"}
)


def manifest(auth: str, *, hosts: str = '["api.acme.example"]', api: str = "", rest: str = "",
             base: str = "https://api.acme.example") -> Manifest:  # fmt: skip
    text = f"""
id = "acme"
name = "Acme"
category = "tests"
hosts = {hosts}
{rest if rest.startswith("x") else ""}
[api]
base_url = "{base}"
{api}
[[auth]]
{auth}
{rest}
"""
    return load_manifest(text.encode())


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
    adapter = default_adapter(manifest(auth))
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


CC = """strategy = "oauth2_client_credentials"
scopes = ["a", "b"]
[auth.token]
url = "https://login.acme.example/token"
{0}
[auth.verify]
url = "https://api.acme.example/ping"
account_path = "id"
"""


async def test_client_credentials_are_the_users_own() -> None:
    facts = manifest(CC.format('auth = "client_secret_basic"\nparams = { audience = "acme" }'))
    adapter = default_adapter(facts)
    fields = secrets(client_id="theirs", client_secret="their-secret")
    with respx.mock:
        route = respx.post(TOKEN_URL).respond(json={"access_token": "at-1", "expires_in": 60})
        respx.get("https://api.acme.example/ping").respond(json={"id": "acct"})
        async with context(facts) as ctx:
            connected = await adapter.connect_with_fields(ctx, fields)
            sent = form(route.calls.last.request)
            assert sent == {
                "grant_type": "client_credentials", "scope": "a b", "audience": "acme"
            }  # fmt: skip
            assert connected.account_id == "acct"
            assert set(connected.secrets) == {"access_token", "client_id", "client_secret"}
            held = envelope(**{k: v.get_secret_value() for k, v in connected.secrets.items()})
            fresh = await adapter.refresh_token(ctx, held)
            assert fresh is not None
            assert fresh.token_expiry is not None
            route.respond(401, json={"error": "invalid_client"})
            with pytest.raises(ProviderRejected):
                await adapter.connect_with_fields(ctx, fields)
            with pytest.raises(ReauthorizationRequired):
                await adapter.refresh_token(ctx, held)
            validation = await adapter.validate_api_key(ctx, fields)
            assert validation.valid is False
    payload_manifest = load_manifest(
        (facts.model_dump_json() and _with_skill(CC.format(""))).encode()
    )
    async with context(payload_manifest) as ctx:
        payload = adapter.build_vm_credential_payload(ctx, held, connection_revision=3)
    assert payload is not None
    assert set(payload.fields) == {"access_token"}
    assert "their-secret" not in payload.model_dump_json()


def _with_skill(auth: str) -> str:
    return (
        'id = "acme"\nname = "Acme"\ncategory = "tests"\nhosts = ["api.acme.example"]\n'
        f'[api]\nbase_url = "https://api.acme.example"\n[[auth]]\n{auth}\n{SKILL}\n'
    )


async def test_login_steps_in_sequence() -> None:
    facts = manifest(
        """strategy = "token_exchange"
[[auth.fields]]
name = "username"
label = "User"
secret = false
[[auth.fields]]
name = "password"
label = "Password"
[[auth.steps]]
url = "https://login.acme.example/find"
method = "GET"
params = { user = "{username}" }
captures = { realm = "realm" }
capture_headers = { nonce = "X-Nonce" }
[[auth.steps]]
url = "https://login.acme.example/login/{realm}"
body = "json"
json_body = { user = { name = "{username}", pass = "{password}" }, nonce = "{nonce}", keep = 1 }
headers = { X-Nonce = "{nonce}" }
[auth.response]
access_token_path = "session.id"
assumed_lifetime = 600
"""
    )
    with respx.mock:
        respx.get("https://login.acme.example/find").respond(
            json={"realm": "r1"}, headers={"X-Nonce": "n-1"}
        )
        login = respx.post("https://login.acme.example/login/r1").respond(
            json={"session": {"id": "at-1"}}
        )
        async with context(facts) as ctx:
            fields = secrets(username="ann", password='p"w')
            connected = await default_adapter(facts).connect_with_fields(ctx, fields)
            request = login.calls.last.request
            assert json.loads(request.content) == {
                "user": {"name": "ann", "pass": 'p"w'}, "nonce": "n-1", "keep": 1
            }  # fmt: skip
            assert request.headers["x-nonce"] == "n-1"
            assert connected.secrets["access_token"].get_secret_value() == "at-1"
            assert connected.token_expiry is not None
            assert (connected.token_expiry - NOW).total_seconds() == 600
            login.respond(401, text="no")
            with pytest.raises(ProviderRejected):
                await default_adapter(facts).connect_with_fields(ctx, fields)


async def test_a_jwt_bearer_grant_and_xml_and_basic_steps() -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    facts = manifest(
        """strategy = "token_exchange"
[[auth.fields]]
name = "client_email"
label = "Service account"
secret = false
[[auth.fields]]
name = "private_key"
label = "Key"
[auth.assertion]
algorithm = "RS256"
issuer = "{client_email}"
audience = "https://login.acme.example/token"
key_id = "k1"
claims = { scope = "read" }
[[auth.steps]]
url = "https://login.acme.example/open"
body = "xml"
xml = "<login user='{client_email}'/>"
basic = ["{client_email}", "x"]
[[auth.steps]]
url = "https://login.acme.example/token"
params = { grant_type = "urn:ietf:params:oauth:grant-type:jwt-bearer", assertion = "{signed_jwt}" }
"""
    )
    with respx.mock:
        opened = respx.post("https://login.acme.example/open").respond(200, text="<ok/>")
        route = respx.post(TOKEN_URL).respond(json={"access_token": "at-1"})
        async with context(facts) as ctx:
            fields = secrets(client_email="a'<b@c", private_key=private.decode())
            await oauth.run_exchange(ctx, fields)
            with pytest.raises(ConfigurationError, match="private key"):
                await oauth.run_exchange(ctx, secrets(client_email="a", private_key="nonsense"))
    assert opened.calls.last.request.content == b"<login user='a&apos;&lt;b@c'/>"
    assert opened.calls.last.request.headers["authorization"].startswith("Basic ")
    signed = jwt.decode(
        form(route.calls.last.request)["assertion"],
        RSAKey.import_key(private.decode()),
        algorithms=["RS256"],
    )
    assert signed.header["kid"] == "k1"
    assert signed.claims["iss"] == "a'<b@c"
    assert signed.claims["scope"] == "read"
    assert signed.claims["exp"] - signed.claims["iat"] == 3600


SUFFIX = """strategy = "api_key"
placements = [{ at = "basic", username = "any", password = "{api_key}" }]
[[auth.variables]]
name = "dc"
provided_by = "api_key_suffix"
[auth.verify]
url = "https://{dc}.api.acme.example/ping"
"""


async def test_a_keys_suffix_is_the_host() -> None:
    facts = manifest(SUFFIX, hosts='["*.api.acme.example"]', base="https://{dc}.api.acme.example")
    adapter = default_adapter(facts)
    with respx.mock:
        respx.get("https://us21.api.acme.example/ping").respond(json={})
        async with context(facts) as ctx:
            connected = await adapter.connect_with_fields(ctx, secrets(api_key="k-us21"))
            assert connected.variables == {"dc": "us21"}
            with pytest.raises(InvalidInput):
                await adapter.connect_with_fields(ctx, secrets(api_key="k-evil.example/#"))


async def test_an_error_in_a_verification_that_succeeds_is_a_refusal() -> None:
    facts = manifest(
        """strategy = "api_key"
[auth.verify]
url = "https://api.acme.example/auth.test"
method = "POST"
json_body = { probe = true }
[auth.verify.error]
path = "ok"
ok = true
message_path = "error"
"""
    )
    adapter = default_adapter(facts)
    with respx.mock:
        route = respx.post("https://api.acme.example/auth.test").respond(
            json={"ok": False, "error": "invalid_auth k3y-0001"}
        )
        async with context(facts) as ctx:
            validation = await adapter.validate_api_key(ctx, secrets(api_key="k3y-0001"))
            assert json.loads(route.calls.last.request.content) == {"probe": True}
            assert validation.valid is False
            assert "invalid_auth ***" in (validation.reason or "")
            route.respond(json={"ok": True})
            assert (await adapter.validate_api_key(ctx, secrets(api_key="k3y-0001"))).valid


REVOCATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("", "POST", {"form": {"token": "rt-1", "token_type_hint": "refresh_token",
                           "client_id": "client-1"}}),
    ('auth = "client_secret_basic"\nhint_param = "kind"', "POST",
     {"form": {"token": "rt-1", "kind": "refresh_token"}, "header": "Basic "}),
    ('auth = "bearer"\nmethod = "GET"\nbody = "none"', "GET", {"header": "Bearer at-1"}),
    ('method = "DELETE"\nbody = "json"\nauth = "client_secret_basic"\n'
     'token_param = "access_token"', "DELETE", {"json": "access_token"}),
    ('body = "query"\nauth = "none"\nparams = { format = "json" }', "POST",
     {"query": {"token": "rt-1", "format": "json"}}),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "method", "expected"), REVOCATIONS)
async def test_revocation_requests(facts: str, method: str, expected: dict[str, Any]) -> None:
    text = f'[auth.revocation]\nurl = "https://login.acme.example/revoke"\n{facts}'
    declared = oauth_manifest(tables=text)
    with respx.mock:
        route = respx.route(
            method=method, url__startswith="https://login.acme.example/revoke"
        ).respond(200)
        async with context(declared) as ctx:
            receipt = await default_adapter(declared).on_disconnect(
                ctx, envelope(access_token="at-1", refresh_token="rt-1")
            )
    assert [line.outcome for line in receipt] == ["revoked", "revoked"]
    request: httpx.Request = route.calls[0].request
    if "form" in expected:
        assert expected["form"].items() <= form(request).items()
    if "header" in expected:
        assert request.headers["authorization"].startswith(expected["header"])
    if "json" in expected:
        assert json.loads(request.content)[expected["json"]] == "rt-1"
    if "query" in expected:
        assert expected["query"].items() <= dict(request.url.params).items()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (httpx.Response(200), "revoked"),
        (httpx.Response(200, json={"ok": False, "error": "token_revoked"}), "already_invalid"),
        (httpx.Response(400, json={"error": "invalid_token"}), "already_invalid"),
        (httpx.Response(200, json={"ok": False, "error": "fatal"}), "failed"),
        (httpx.Response(500, text="rt-1 x"), "failed"),
        (httpx.ConnectError("no"), "failed"),
    ],
)
async def test_a_receipt_says_what_happened(reply: Any, outcome: str) -> None:
    declared = oauth_manifest(
        tables='[auth.revocation]\nurl = "https://login.acme.example/revoke"\n'
        'revokes = ["refresh_token"]\n[auth.revocation.error]\npath = "error"\n'
    )
    with respx.mock:
        route = respx.post("https://login.acme.example/revoke")
        if isinstance(reply, Exception):
            route.mock(side_effect=reply)
        else:
            route.mock(return_value=reply)
        async with context(declared) as ctx:
            (line,) = await oauth.revoke(ctx, envelope(refresh_token="rt-1", access_token="a"))
    assert line.outcome == outcome
    assert "rt-1" not in line.detail


async def test_what_cannot_be_revoked_is_said() -> None:
    async with context(oauth_manifest()) as ctx:
        receipt = await oauth.revoke(ctx, envelope(access_token="at-1", refresh_token="rt-1"))
    assert {line.outcome for line in receipt} == {"not_offered"}
    assert {line.token for line in receipt} == {"access_token", "refresh_token"}


@pytest.mark.parametrize(
    ("refresh", "held"),
    [('mode = "none"', {"access_token": "a", "refresh_token": "r"}), ("", {"access_token": "a"})],
)
async def test_nothing_to_refresh_with(refresh: str, held: dict[str, str]) -> None:
    facts = oauth_manifest(refresh=refresh)
    async with context(facts) as ctx:
        assert await default_adapter(facts).refresh_token(ctx, envelope(**held)) is None
        with pytest.raises(ReauthorizationRequired):
            await oauth.refresh(ctx, envelope(**held))


async def test_a_way_that_needs_code_says_so() -> None:
    facts = manifest('strategy = "aws_sigv4"\nneeds_code = "Every request is signed."')
    async with context(facts) as ctx:
        with pytest.raises(ConfigurationError, match="Every request is signed"):
            await default_adapter(facts).connect_with_fields(ctx, {})


async def test_the_binding_holds_public_values_only() -> None:
    facts = oauth_manifest(api='headers = { Client-Id = "{client_id}" }')
    async with context(facts) as ctx:
        assert binding(ctx, {}).headers == {"Client-Id": "client-1"}
    secret = oauth_manifest(api='headers = { X = "{client_secret}" }')
    async with context(secret) as ctx:
        with pytest.raises(ConfigurationError, match="client_secret"):
            binding(ctx, {})


async def test_machines_never_get_what_renews() -> None:
    auth = 'placements = [{ at = "header", name = "X", format = "{refresh_token}" }]'
    facts = oauth_manifest(auth=auth, tables=SKILL)
    async with context(facts) as ctx:
        with pytest.raises(ConfigurationError, match="must not leave"):
            default_adapter(facts).build_vm_credential_payload(
                ctx, envelope(refresh_token="rt-1"), connection_revision=1
            )
    facts = oauth_manifest(tables=SKILL)
    async with context(facts) as ctx:
        with pytest.raises(ReauthorizationRequired, match="no access_token"):
            default_adapter(facts).build_vm_credential_payload(
                ctx, envelope(refresh_token="rt-1"), connection_revision=1
            )


async def test_environments_change_every_url() -> None:
    tables = (
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
