"""Manifests and contexts for tests of the host side: one provider, bent as a test needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import httpx
from pydantic import SecretStr

from aura_core.adapter import Context, OAuthClientSettings
from aura_core.api import http_client
from aura_core.credentials import CredentialEnvelope
from aura_core.manifest import Manifest, load_manifest

__all__ = [
    "BACK",
    "CLIENT_SECRET",
    "NOW",
    "TOKEN_URL",
    "context",
    "declared",
    "envelope",
    "form",
    "manifest_with",
    "oauth_manifest",
    "query",
    "secrets",
]

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TOKEN_URL = "https://login.acme.example/token"
CLIENT_SECRET = "s3cret-of-the-client"
BACK = "https://aura.example/callback"


def oauth_manifest(
    *,
    top: str = "",
    api: str = "",
    auth: str = "",
    authorization: str = "",
    token: str = "",
    refresh: str = "",
    tables: str = "",
    hosts: str = '["api.acme.example"]',
    base_url: str = "https://api.acme.example",
    authorization_url: str = "https://login.acme.example/authorize",
    token_url: str = TOKEN_URL,
) -> Manifest:
    """A provider that does what the RFCs say, but for what the arguments add to its tables."""
    text = f"""
id = "acme"
name = "Acme"
category = "tests"
hosts = {hosts}
{top}
[api]
base_url = "{base_url}"
{api}
[[auth]]
strategy = "oauth2"
scopes = ["read", "write"]
{auth}
[auth.client]
id_env = "ACME_CLIENT_ID"
secret_env = "ACME_CLIENT_SECRET"
[auth.authorization]
url = "{authorization_url}"
{authorization}
[auth.token]
url = "{token_url}"
{token}
[auth.refresh]
{refresh}
{tables}
"""
    return load_manifest(text.encode(), source="acme.toml")


@asynccontextmanager
async def context(
    manifest: Manifest,
    *,
    variables: Mapping[str, str] | None = None,
    client: OAuthClientSettings | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    auth_id: str | None = None,
) -> AsyncIterator[Context]:
    """A context with a client of its own and a clock that stands at :data:`NOW`."""
    async with http_client(transport=transport) as http:
        yield Context(
            manifest=manifest,
            method=manifest.auth_method(auth_id),
            http=http,
            now=lambda: NOW,
            client=client
            or OAuthClientSettings(client_id="client-1", client_secret=SecretStr(CLIENT_SECRET)),
            variables=variables or {},
        )


def secrets(**values: str) -> dict[str, SecretStr]:
    return {name: SecretStr(value) for name, value in values.items()}


def envelope(**values: str) -> CredentialEnvelope:
    """An envelope that holds these secrets."""
    return CredentialEnvelope(
        integration_id="c1",
        user_id="u1",
        provider="acme",
        auth_id="oauth2",
        secrets=secrets(**values),
    )


def query(url: httpx.URL | str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(str(url)).query, keep_blank_values=True))


def form(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode(), keep_blank_values=True))


def declared(name: str = "", extra: str = "") -> str:
    return f'[[auth.variables]]\nname = "{name}"\n{extra}\n'


def manifest_with(auth: str, *, hosts: str = '["api.acme.example"]', api: str = "", rest: str = "",
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
