"""The README's lines on writing a plugin, as somebody would type them; and that links lead on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from urllib.parse import unquote

import pytest
import respx
from pydantic import SecretStr

from aura_core.adapter import Context, binding
from aura_core.api import BoundApi, http_client
from aura_core.registry import Registry
from tests.core.providers import NOW
from tests.workspace.tree import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "aura_plugins/*/README.md")
    for path in ROOT.glob(pattern)
)


def blocks(language: str) -> list[str]:
    """The section's code in that language, in order."""
    section = (ROOT / "README.md").read_text().partition("## Write a plugin")[2]
    return re.findall(rf"```{language}\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)


def test_a_manifest_dropped_into_a_folder_is_listed(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(blocks("toml")[0])
    listed = subprocess.run(
        [Path(sys.executable).with_name("aura"), "plugins", "list", "--json"],
        env={**os.environ, "AURA_MANIFESTS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {row["id"]: row for row in json.loads(listed.stdout)["integrations"]}
    assert found["acme"]["status"] == "available"
    assert found["acme"]["auth"] == ["api_key"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """The package that the section tells to write."""
    manifest, named, project = blocks("toml")
    (tools,) = blocks("python")
    files = {"__init__.py": "", "manifest.toml": named + manifest, "tools.py": tools}
    (tmp_path / "acme").mkdir()
    for name, text in files.items():
        (tmp_path / "acme" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = tomllib.loads(project)["project"]["entry-points"]["aura.plugins"]
    yield [EntryPoint(name=k, value=v, group="aura.plugins") for k, v in points.items()]
    for name in ("acme", "acme.tools"):
        sys.modules.pop(name, None)


async def test_a_plugin_with_a_tool_calls_its_provider(
    installed: list[EntryPoint], respx_mock: respx.MockRouter
) -> None:
    acme = Registry.discover(entry_points=installed).open("acme")
    respx_mock.get("https://api.acme.example/v1/me").respond(json={})
    search = respx_mock.get("https://api.acme.example/v1/search").respond(json=["found"])
    async with http_client() as http:
        ctx = Context(
            manifest=acme.manifest, method=acme.manifest.auth_method(), http=http, now=lambda: NOW
        )
        key = {"api_key": SecretStr("the-key")}
        connected = await acme.adapter.connect_with_fields(ctx, key)
        api = BoundApi(binding(ctx, connected.secrets), connected.secrets, http)
        answer = await acme.adapter.execute_chat_tool(
            acme.tools, "acme_search", {"query": "a b"}, api
        )
    assert answer == ["found"]
    request = search.calls.last.request
    assert request.headers["x-api-key"] == "the-key"
    assert request.url.params["q"] == "a b"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    missing = [
        target
        for target in targets
        if "://" not in target and not (document.parent / unquote(target)).exists()
    ]
    assert not missing
