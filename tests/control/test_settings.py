"""Settings: what is accepted, and errors that name the variable and never the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura_control.settings import load_settings
from aura_core.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AURA_PUBLIC_URL", "http://aura.example.org"),
        ("AURA_PUBLIC_URL", "https://aura.example.org/path"),
        ("AURA_PUBLIC_URL", "https://user@aura.example.org"),
        ("AURA_PUBLIC_URL", "ftp://aura.example.org"),
        ("AURA_TWINS", "google=https://evil.example.org"),
        ("AURA_TWINS", "google=evil.example"),
        ("AURA_PRIVATE_HOSTS", "https://git.corp.example"),
        ("AURA_PRIVATE_HOSTS", "git.corp.example,0x7f.1"),
        ("AURA_PORT", "99999"),
        ("AURA_HEARTBEAT_SECONDS", "0"),
        ("AURA_LOG_LEVEL", "loud"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as error:
        load_settings()
    assert str(error.value).startswith(f"{name}:")
    assert value not in str(error.value)


def test_lists_come_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_MANIFESTS", "/a:/b")
    monkeypatch.setenv("AURA_TWINS", "google=http://127.0.0.1:9000, slack=http://[::1]:9001")
    monkeypatch.setenv("AURA_PRIVATE_HOSTS", "Git.Corp.Example., 10.0.0.5")
    settings = load_settings()
    assert settings.private_hosts == ("git.corp.example", "10.0.0.5")
    assert settings.manifests == (Path("/a"), Path("/b"))
    assert settings.twins == {"google": "http://127.0.0.1:9000", "slack": "http://[::1]:9001"}


def test_a_url_with_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_DATABASE_URL", "postgresql://aura:swordfish@db/aura")
    settings = load_settings()
    assert settings.database == "postgresql://aura:swordfish@db/aura"
    assert "swordfish" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "secure"), [("https://aura.example.org/", True), ("http://127.0.0.1:8700", False)]
)
def test_the_cookie_follows_the_public_url(url: str, secure: bool) -> None:
    settings = load_settings(public_url=url)
    assert settings.secure is secure
    assert not settings.public_url.endswith("/")
