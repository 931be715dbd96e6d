"""Settings are read strictly, and say which one is wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import aura_plugin_hetzner
import pytest
from aura_plugin_hetzner.settings import HetznerSettings

from aura_core.compute import HostContext
from aura_core.errors import ConfigurationError

TOKEN = {"AURA_HETZNER_TOKEN": "hc-token-0123456789"}


def test_without_a_token_there_is_no_such_compute(tmp_path: Path) -> None:
    assert aura_plugin_hetzner.aura_computes(HostContext(data_dir=tmp_path)) == []


async def test_with_a_token_there_is(tmp_path: Path) -> None:
    context = HostContext(data_dir=tmp_path, settings=TOKEN)
    (compute,) = aura_plugin_hetzner.aura_computes(context)
    assert compute.id == "hetzner"
    await compute.aclose()


def test_defaults() -> None:
    settings = HetznerSettings.read(TOKEN)
    assert settings is not None
    assert settings.endpoint == "https://api.hetzner.cloud/v1"
    assert settings.region == "eu-central"
    assert settings.most_monthly == {"EUR": Decimal(25), "USD": Decimal(28)}
    assert not settings.ssh_from
    assert "hc-token" not in repr(settings)


def test_everything_can_be_set() -> None:
    given = {
        "ENDPOINT": "http://127.0.0.1:8080/v1/",
        "REGION": "US-East",
        "TYPES": "CPX11, ccx13",
        "MAX_MONTHLY_EUR": "12.50",
        "MAX_MONTHLY_USD": "40",
        "IMAGE": "debian-13",
        "IMAGE_LABEL": "golden=yes",
        "SSH_KEYS": "Anna Ben",
        "SSH_KEY_LABEL": "team=ops",
        "SSH_FROM": "192.0.2.0/24,2001:db8::/32",
        "SPREAD": "yes",
        "KEEP_SNAPSHOTS": "true",
    }
    settings = HetznerSettings.read(
        TOKEN | {f"AURA_HETZNER_{name}": value for name, value in given.items()}
    )
    assert settings is not None
    assert settings.endpoint == "http://127.0.0.1:8080/v1"
    assert settings.region == "us-east"
    assert settings.types == ("cpx11", "ccx13")
    assert settings.most_monthly == {"EUR": Decimal("12.50"), "USD": Decimal(40)}
    assert (settings.image, settings.image_label) == ("debian-13", "golden=yes")
    assert settings.ssh_keys == ("Anna", "Ben")
    assert settings.ssh_key_label == "team=ops"
    assert settings.ssh_from == ("192.0.2.0/24", "2001:db8::/32")
    assert settings.spread
    assert settings.keep_snapshots


def test_the_token_can_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hc-token\n")
    settings = HetznerSettings.read({"AURA_HETZNER_TOKEN_FILE": str(file)})
    assert settings is not None
    assert settings.token.get_secret_value() == "hc-token"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        HetznerSettings.read({"AURA_HETZNER_TOKEN_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKEN", "one\r\nX-Other: two"),
        ("ENDPOINT", "http://api.example.com/v1"),
        ("ENDPOINT", "https://user:word@example.com/v1"),
        ("REGION", "../x"),
        ("TYPES", "cx23,$(id)"),
        ("MAX_MONTHLY_EUR", "cheap"),
        ("MAX_MONTHLY_EUR", "NaN"),
        ("MAX_MONTHLY_USD", "0"),
        ("IMAGE", "debian 12"),
        ("IMAGE_LABEL", "a,b"),
        ("SSH_KEY_LABEL", "a!=b"),
        ("SSH_FROM", "everybody"),
        ("SPREAD", "perhaps"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HetznerSettings.read(TOKEN | {f"AURA_HETZNER_{name}": value})
    assert "AURA_HETZNER_" in str(caught.value)
    assert "hc-token" not in str(caught.value)
