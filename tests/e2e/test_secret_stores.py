"""Master keys go to the secret stores of the installed plugins, beside a running control plane, and
come back when it starts again."""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from aura_control.cli import main
from aura_control.cli.registry import open_registry
from aura_control.settings import load_settings
from aura_core.encoding import b64url
from aura_core.secret_stores import SecretStores
from aura_plugins.aws.tests.conftest import REGION, moto
from aura_plugins.vault.tests.server import TransitKey, Vault, serving
from tests.e2e.programs import control_plane
from tests.e2e.test_command_line import Said
from tests.e2e.test_operator_manifests import ID, PATH, Weather, drop, fields, operated, weather

__all__ = ["moto", "weather"]

_TOKEN = "hvs.example-token-0123456789"
_POLICY = {
    r"kv/data/aura/.+": {"create", "read", "update"},
    r"transit/keys/.+": {"read"},
    r"transit/(?:en|de)crypt/.+": {"update"},
}
_AWS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE000000000",
    "AWS_SECRET_ACCESS_KEY": "example-secret-access-key",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
}

Run = Callable[..., Said]


@pytest.fixture
def vault(home: Path) -> Iterator[dict[str, str]]:
    """The settings of a Vault that runs."""
    token = home / "token"
    token.write_text(_TOKEN)
    with serving(Vault(policies={_TOKEN: _POLICY}, keys={"aura": TransitKey()})) as running:
        yield {"AURA_VAULT_ADDR": running.address, "AURA_VAULT_TOKEN_FILE": str(token)}


@pytest.fixture
def places(moto: str) -> dict[str, str]:
    """Where each new key goes, and what is said when it is retired."""
    kms: Any = boto3.Session("operator", "operator").client(
        "kms", region_name=REGION, endpoint_url=moto
    )
    wrapping = f"aws-kms:{kms.create_key()['KeyMetadata']['Arn']}"
    return {
        "vault:kv/data/aura/master-keys": "Remove m2 from its store",
        "vault:transit/keys/aura": "Keep the key of vault:transit/keys/aura",
        wrapping: f"Keep the key of {wrapping}",
    }


@pytest.fixture
def settings(vault: dict[str, str], moto: str) -> dict[str, str]:
    return {**vault, "AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": moto, **_AWS}


@pytest.fixture
def run(
    home: Path,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command in this process, with the settings of the control plane."""
    for name in [name for name in os.environ if name.startswith(("AURA_", "AWS_", "VAULT_"))]:
        monkeypatch.delenv(name)
    for name, value in {"AURA_DATA_DIR": str(home / "data"), **settings}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, **variables: str) -> Said:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["aura", *arguments, "--json"])
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capfd.readouterr()
        return Said(int(ended.value.code or 0), captured.out, captured.err)

    return run


def findings(run: Run, **variables: str) -> dict[str, str]:
    lines = run("doctor", **variables).document["findings"]
    return {
        line["check"]: line["outcome"]
        for line in lines
        if line["check"].startswith(("keys", "secret"))
    }


def spellings(kid: str, reference: str, data_dir: Path) -> list[bytes]:
    """How the key that the reference stands for could have been written down."""
    stores = SecretStores(open_registry(load_settings(data_dir=data_dir)).secret_stores)
    material = stores.fetch(kid, reference)
    texts = b64url(material), b64encode(material).decode(), material.hex()
    return [material, *(text.encode() for text in texts)]


def test_keys_are_kept_used_fetched_and_retired(
    settings: dict[str, str], places: dict[str, str], run: Run, home: Path, weather: Weather
) -> None:
    (home / "manifests").mkdir()
    drop(home / "manifests", ID, scheme="http", host=weather.host)
    variables = {**settings, **operated(home / "manifests", "1")}
    with control_plane(home, **variables) as plane:
        assert findings(run) == {"keys": "ok"}
        assert plane.api.post(PATH, json=fields()).status_code == 201
        for kid, place in zip(("m2", "m3", "m4"), places, strict=True):
            assert run("keys", "rotate", "--store", place).document["active"] == kid
            # The running process reads the new key from its store.
            assert plane.api.post(f"{PATH}/validate").json()["valid"] is True
        shown = run("keys", "status").document["keys"]
        assert [one["kept"] for one in shown[1:]] == [*places]
        assert [one["sealed"]["connections"] for one in shown] == [0, 0, 0, 1]
        assert run("keys", "retire", "m1").document["retired"] == "m1"
    lines = (home / "data" / "master-keys").read_text().splitlines()
    assert lines[0] == "m1:destroyed:"
    references = dict(line.split(":", 2)[::2] for line in lines[1:])
    for (kid, reference), place in zip(references.items(), places, strict=True):
        assert reference.startswith(f"{place}#{kid}")
    secrets = [
        text
        for kid, reference in references.items()
        for text in spellings(kid, reference, home / "data")
    ]
    with control_plane(home, **variables) as plane:
        assert plane.api.post(f"{PATH}/validate").json()["valid"] is True
        well = {"keys": "ok", "secret store aws-kms": "ok", "secret store vault": "ok"}
        assert findings(run) == well
        # Each command that opens the database reads the keys from their stores, too.
        assert run("audit", "verify").code == 0
        assert len(run("tenants", "list").document["tenants"]) == 1
        for kid, (place, said) in zip(("m2", "m3"), places.items(), strict=False):
            retired = run("keys", "retire").document
            assert retired["retired"] == kid, place
            assert retired["next"][1].startswith(said)
        assert plane.api.post(f"{PATH}/validate").json()["valid"] is True
    away = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert findings(run, **away) == {"keys": "fail", "secret store aws-kms": "fail"}
    assert "no credentials for AWS" in run("keys", "status", **away).document["title"]
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert not any(secret in written for secret in secrets)
