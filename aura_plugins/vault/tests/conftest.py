"""A Vault to log in to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aura_plugin_vault.store import VaultStore

from aura_plugins.vault.tests.server import TransitKey, Vault, serving

TOKEN = "hvs.example-token-0123456789"
EVERYTHING = {
    r"kv/data/aura/.+": {"create", "read", "update"},
    r"transit/keys/.+": {"read"},
    r"transit/(?:en|de)crypt/.+": {"update"},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home without a token of its own, and nothing of Vault's in the environment."""
    for name in [name for name in os.environ if name.startswith("VAULT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def vault() -> Iterator[Vault]:
    with serving(Vault(policies={TOKEN: EVERYTHING}, keys={"aura": TransitKey()})) as running:
        yield running


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def settings(vault: Vault, token_file: Path) -> dict[str, str]:
    return {"AURA_VAULT_ADDR": vault.address, "AURA_VAULT_TOKEN_FILE": str(token_file)}


@pytest.fixture
def store(settings: dict[str, str]) -> VaultStore:
    return VaultStore(settings)
