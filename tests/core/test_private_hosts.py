"""Names that an operator lets lie inside their network: where they are known, and where not."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura_core.credentials import bind
from aura_core.errors import ManifestError
from aura_core.manifest import Manifest, Variable, load_manifest, wrong_value
from aura_core.registry import Registry

TOML = """
id = "forge"
name = "Forge"
category = "code"
hosts = ["git.corp.example:8443", "*.files.corp.example", "{server}"]

[api]
base_url = "https://git.corp.example:8443/api"

[[auth]]
strategy = "api_key"
fields = [{ name = "api_key", label = "Key" }]
placements = [{ at = "header", name = "X-Key", format = "{api_key}" }]
variables = [{ name = "server", label = "Server", url = true }]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "forge.toml").write_text(TOML)
    return tmp_path


def forge(folder: Path, *names: str) -> Manifest:
    found = Registry.discover(manifest_dirs=[folder], entry_points=[], private_hosts=names)
    return found.get("forge")


def test_a_binding_names_those_of_its_own_hosts(folder: Path) -> None:
    names = ("git.corp.example", "a.files.corp.example", "wiki.corp.example", "mine.lan")
    manifest = forge(folder, *names)
    bound = bind(manifest, manifest.auth_method(), {"server": "https://mine.lan"})
    assert bound.private_hosts == ("git.corp.example", "a.files.corp.example", "mine.lan")
    plain = forge(folder)
    bound = bind(plain, plain.auth_method(), {"server": "https://mine.lan"})
    assert bound.private_hosts == ()


def test_a_manifest_cannot_open_anything_itself(folder: Path) -> None:
    path = folder / "forge.toml"
    path.write_text('private_hosts = ["git.corp.example"]\n' + path.read_text())
    with pytest.raises(ManifestError, match="private_hosts"):
        load_manifest(path)


def test_users_may_name_a_server_that_the_operator_opened() -> None:
    variable, hosts = Variable(name="server", url=True), ("{server}",)
    for value in ("https://mine.lan", "https://10.0.0.5"):
        assert wrong_value(variable, value, hosts=hosts) == "does not lead to a public host"
        opened = wrong_value(variable, value, hosts=hosts, private_hosts=[value[8:]])
        assert opened is None
    assert wrong_value(variable, "https://a.mine.lan", hosts=hosts, private_hosts=["mine.lan"])
