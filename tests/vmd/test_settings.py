"""The settings file: what is refused says where and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aura_core.encoding import b64url
from aura_core.errors import ConfigurationError
from aura_core.wire import ControlKeys
from aura_vmd.app import main
from aura_vmd.settings import load_settings

KEYS = ControlKeys.generate()
GOOD: dict[str, Any] = {
    "instance_id": "i-1",
    "control_url": "https://control.example/",
    "control_public_keys": {KEYS.signer_kid: b64url(KEYS.sig_public)},
    "listen": {"host": "127.0.0.1", "port": 18790},
    "agent_user": "agent",
    "runtime": {"name": "basic", "readiness": {"socket": "/run/agent/runtime.sock"}},
    "of_a_newer_version": True,
}


def write(root: Path, document: Any) -> Path:
    path = root / "etc/aura/vmd.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return root


def test_what_composing_writes_is_read(tmp_path: Path) -> None:
    settings = load_settings({"AURA_ROOT": str(write(tmp_path, GOOD))})
    assert settings.control_url == "https://control.example"
    assert settings.control_public_keys == {KEYS.signer_kid: KEYS.sig_public}
    assert (settings.listen.host, settings.listen.port) == ("127.0.0.1", 18790)
    assert (settings.user, settings.agent_user) == ("aura", "agent")
    assert settings.runtime.readiness is not None
    assert settings.runtime.readiness.path == "/readyz"
    assert settings.layout.broker_socket == tmp_path / "run/aura/broker.sock"


def test_the_environment_replaces_what_only_the_machine_knows(tmp_path: Path) -> None:
    environment = {
        "AURA_ROOT": str(write(tmp_path, GOOD)),
        "AURA_VMD_LISTEN": "127.0.0.1:0",
        "AURA_VMD_USER": "61183",
        "AURA_AGENT_USER": "61184:61185",
    }
    settings = load_settings(environment)
    assert settings.listen.port == 0
    assert (settings.user, settings.agent_user) == ("61183", "61184:61185")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"instance_id": "../x"}, "instance_id"),
        ({"control_url": "http://control.example"}, "control_url"),
        ({"control_url": "https://a@control.example"}, "control_url"),
        ({"control_public_keys": {}}, "control_public_keys"),
        ({"control_public_keys": {"0" * 16: b64url(KEYS.sig_public)}}, "control_public_keys"),
        ({"control_public_keys": [1]}, "control_public_keys"),
        ({"listen": {"host": "0.0.0.0", "port": 1}}, "listen.host"),
        ({"listen": {"host": "127.0.0.1", "port": 70000}}, "listen.port"),
        ({"runtime": {"readiness": {"socket": "/etc/passwd"}}}, "runtime.readiness.socket"),
        ({"instance_id": None}, "instance_id"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    write(tmp_path, GOOD | change)
    with pytest.raises(ConfigurationError, match=f"vmd.json: {where}"):
        load_settings({"AURA_ROOT": str(tmp_path)})


@pytest.mark.parametrize("text", ["", "[]", "not json"])
def test_a_file_that_is_no_object_is_an_error(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=r"vmd\.json"):
        load_settings({"AURA_ROOT": str(tmp_path)})


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AURA_ROOT", str(tmp_path))
    assert main(["check"]) == 78
    assert "cannot be read" in capsys.readouterr().err
    write(tmp_path, GOOD | {"agent_user": "no-such-user-here"})
    assert main(["check"]) == 78
    assert "AURA_AGENT_USER" in capsys.readouterr().err
    write(tmp_path, GOOD | {"agent_user": "61184", "user": "61183"})
    assert main(["check"]) == 0
    assert "i-1" in capsys.readouterr().out
