"""Every way in which providers leave the RFCs that a manifest can declare, lived through."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

import aura_core
from aura_core import manifest as manifests
from aura_core.errors import AuraError
from tests.core.lives import REVOCATION as PLAIN_REVOCATION
from tests.core.lives import VERIFY, live
from tests.core.quirks import Quirk
from tests.core.quirks_of_connections import CONNECTION, REFRESH, REQUEST, REVOCATION
from tests.core.quirks_of_grants import AUTHORIZATION, RESPONSE, TOKEN

TABLES = {
    "authorize": AUTHORIZATION,
    "token": TOKEN,
    "response": RESPONSE,
    "refresh": REFRESH,
    "connection": CONNECTION,
    "request": REQUEST,
    "revocation": REVOCATION,
}


@pytest.mark.parametrize(
    "quirk",
    [
        pytest.param(quirk, id=f"{table}: {name}")
        for table, quirks in TABLES.items()
        for name, quirk in quirks.items()
    ],
)
async def test_it_is_declared_and_acted_on(quirk: Quirk) -> None:
    assert quirk.shows(await live(quirk.provider))
    if quirk.as_the_rfc_says:
        return
    # The same provider with a manifest that does not say so: then it must not show.
    unsaid = replace(
        quirk.provider, facts={}, verify=VERIFY, revocation=PLAIN_REVOCATION, tables=""
    )
    try:
        shown = quirk.shows(await live(unsaid))
    except (AuraError, LookupError, ValueError):
        return
    assert not shown


FACTS = {
    # For people and for catalogues.
    "Manifest": {"manifest_version", "docs_url", "family", "tags", "single_source", "mcp"},
    "OAuth2Auth": {"introspection_url", "device_authorization_url", "sunset"},
    "RefreshTokens": {"requires"},
    "Call": {"billed"},
    # For what speaks another protocol than an API call.
    "McpServer": {"resource", "token_url", "registration_url", "client_registration"},
    "WebhookAuth": {"signature_header", "timestamp_header", "event_id_path"},
}  # fmt: skip
"""Keys that say something about a provider on which no call depends."""


def keys_of_the_manifest() -> Iterator[tuple[str, str]]:
    for name in manifests.__all__:
        model = getattr(manifests, name)
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from ((name, key) for key in model.model_fields)


def test_no_key_is_declared_and_forgotten() -> None:
    root = Path(aura_core.__file__).parents[1]
    read = {
        node.attr
        for package in ("aura_core", "aura_control", "aura_vmd")
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    said = {(model, key) for model, keys in FACTS.items() for key in keys}
    forgotten = {pair for pair in keys_of_the_manifest() if pair[1] not in read}
    assert not forgotten - said
