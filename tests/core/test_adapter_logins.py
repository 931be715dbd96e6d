"""Connecting with what a user types in: keys, clients of their own, login steps, assertions."""

from __future__ import annotations

import json

import pytest
import respx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

from aura_core import oauth
from aura_core.adapter import (
    default_adapter,
)
from aura_core.errors import (
    ConfigurationError,
    InvalidInput,
    ProviderRejected,
    ReauthorizationRequired,
)
from aura_core.manifest import load_manifest
from tests.core.providers import (
    NOW,
    TOKEN_URL,
    context,
    envelope,
    form,
    manifest_with,
    secrets,
)

SKILL = '[skill]\ndir_name = "acme-skill"\ncommand = "acme"\ndescription = "Use Acme well."'


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
    facts = manifest_with(CC.format('auth = "client_secret_basic"\nparams = { audience = "acme" }'))
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
    facts = manifest_with(
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
    facts = manifest_with(
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
    facts = manifest_with(
        SUFFIX, hosts='["*.api.acme.example"]', base="https://{dc}.api.acme.example"
    )
    adapter = default_adapter(facts)
    with respx.mock:
        respx.get("https://us21.api.acme.example/ping").respond(json={})
        async with context(facts) as ctx:
            connected = await adapter.connect_with_fields(ctx, secrets(api_key="k-us21"))
            assert connected.variables == {"dc": "us21"}
            with pytest.raises(InvalidInput):
                await adapter.connect_with_fields(ctx, secrets(api_key="k-evil.example/#"))


async def test_an_error_in_a_verification_that_succeeds_is_a_refusal() -> None:
    facts = manifest_with(
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


async def test_a_way_that_needs_code_says_so() -> None:
    facts = manifest_with('strategy = "aws_sigv4"\nneeds_code = "Every request is signed."')
    async with context(facts) as ctx:
        with pytest.raises(ConfigurationError, match="Every request is signed"):
            await default_adapter(facts).connect_with_fields(ctx, {})
