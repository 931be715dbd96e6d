"""Finding integrations without importing them, and quarantining what fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura_core.adapter import IntegrationAdapter
from aura_core.errors import (
    ConfigurationError,
    Conflict,
    DuplicateIntegration,
    NotFound,
    PluginError,
)
from tests.core.plugins import PluginFolder, discover, line, manifest_text

TOOLS = """
from aura_core.tools import ToolApi, tool

@tool
async def {name}(api: ToolApi, text: str) -> object:
    "Answer with the text."
    return text
"""
WITH_TOOL = """
tools_module = "acme_{0}.tools"
[[tools]]
name = "echo"
description = "Answer with the text."
"""


def test_listing_imports_no_plugin(plugins: PluginFolder) -> None:
    plugins.add("bird", files={"manifest.toml": manifest_text("bird")})
    plugins.add("zoo", files={f"manifests/{n}.toml": manifest_text(n) for n in ("ant", "cat")})
    registry = discover(plugins)
    assert [listing.id for listing in registry.listings()] == ["ant", "bird", "cat"]
    assert registry.get("cat").name == "Cat"
    assert [m.id for m in registry.by_strategy("api_key")] == ["ant", "bird", "cat"]
    assert plugins.loaded() == []


def test_a_plugin_in_a_nested_package_is_found_without_importing_it(plugins: PluginFolder) -> None:
    plugins.add(
        "deep",
        files={"inner/__init__.py": "", "inner/manifest.toml": manifest_text("deep")},
        init="raise RuntimeError('imported')",
        module="acme_deep.inner",
    )
    assert discover(plugins).get("deep").id == "deep"
    assert plugins.loaded() == []


def test_open_imports_that_plugin_only(plugins: PluginFolder) -> None:
    plugins.add("bird", files={"manifest.toml": manifest_text("bird")})
    plugins.add("cat", files={"manifest.toml": manifest_text("cat")})
    registry = discover(plugins)
    opened = registry.open("bird")
    assert plugins.loaded() == ["acme_bird"]
    assert opened is registry.open("bird")
    assert opened.adapter.id == "bird"
    assert opened.distribution == "acme-bird 1.0"


def test_a_plugin_that_raises_at_import_is_listed_and_then_quarantined(
    plugins: PluginFolder, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(
        "bad", init="raise RuntimeError('boom')", files={"manifest.toml": manifest_text("bad")}
    )
    plugins.add("good", files={"manifest.toml": manifest_text("good")})
    registry = discover(plugins)
    assert line(registry, "bad").status == "available"
    for _ in range(2):
        with pytest.raises(PluginError, match=r"acme-bad 1\.0: .*RuntimeError: boom"):
            registry.open("bad")
    assert line(registry, "bad").status == "quarantined"
    assert "boom" in (line(registry, "bad").reason or "")
    assert registry.open("good").adapter.id == "good"
    assert "quarantined" in caplog.text


def test_a_plugin_that_ends_the_interpreter_does_not(plugins: PluginFolder) -> None:
    plugins.add("exit", init="raise SystemExit(3)", files={"manifest.toml": manifest_text("exit")})
    with pytest.raises(PluginError, match="SystemExit"):
        discover(plugins).open("exit")


def test_a_duplicate_is_rejected_naming_both(plugins: PluginFolder) -> None:
    plugins.add("one", files={"manifest.toml": manifest_text("bird")})
    plugins.add("two", files={"manifest.toml": manifest_text("bird")})
    plugins.add("cat", files={"manifest.toml": manifest_text("cat")})
    registry = discover(plugins)
    assert line(registry, "bird").status == "quarantined"
    for call in (registry.get, registry.open):
        with pytest.raises(DuplicateIntegration, match=r"acme-one 1\.0 and acme-two 1\.0"):
            call("bird")
    assert registry.get("cat").id == "cat"


def test_two_files_with_one_id_are_called_by_their_paths(
    plugins: PluginFolder, tmp_path: Path
) -> None:
    plugins.add("zoo", files={f"manifests/{n}.toml": manifest_text("cat") for n in "ab"})
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("first", "second"):
        (folder / f"{name}.toml").write_text(manifest_text("bird"))
    registry = discover(plugins, manifest_dirs=[folder])
    reason = line(registry, "bird").reason or ""
    assert f"{folder}/first.toml and {folder}/second.toml" in reason
    assert "manifests/b.toml" in (line(registry, "cat").reason or "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('id = "bird"\nname = ', "is not TOML"),
        ('id = "bird"\nname = "Bird"\n', "category: is missing"),
        (manifest_text("bird", top='catagory = "x"'), "Did you mean 'category'"),
        (manifest_text("bird", top='minimum_core = "99.0"'), "needs Aura 99.0"),
        (manifest_text("bird", top=WITH_TOOL.format("other")), "lies outside the plugin"),
    ],
)
def test_a_broken_manifest_is_quarantined_with_its_reason(
    plugins: PluginFolder, text: str, reason: str
) -> None:
    plugins.add(
        "zoo", files={"manifests/bird.toml": text, "manifests/ok.toml": manifest_text("ok")}
    )
    registry = discover(plugins)
    assert line(registry, "bird").status == "quarantined"
    assert reason in (line(registry, "bird").reason or "")
    with pytest.raises(PluginError):
        registry.open("bird")
    assert registry.open("ok").manifest.id == "ok"


def test_a_plugin_whose_module_is_missing_is_quarantined(plugins: PluginFolder) -> None:
    plugins.add("gone", module="acme_nowhere")
    assert "not installed" in (line(discover(plugins), "gone").reason or "")


def test_plugin_toml_with_an_unknown_word_is_quarantined(plugins: PluginFolder) -> None:
    plugins.add("odd", files={"plugin.toml": 'provides = ["computer"]'})
    assert "'computer'" in (line(discover(plugins), "odd").reason or "")


def test_an_unknown_id_is_not_found(plugins: PluginFolder) -> None:
    with pytest.raises(NotFound):
        discover(plugins).get("nothing")


def test_coming_soon_is_listed_but_not_opened(plugins: PluginFolder) -> None:
    top = 'status = "coming_soon"\nstatus_reason = "needs approval"'
    plugins.add("soon", files={"manifest.toml": manifest_text("soon", top=top)})
    registry = discover(plugins)
    assert line(registry, "soon").status == "coming_soon"
    assert line(registry, "soon").reason == "needs approval"
    with pytest.raises(Conflict):
        registry.open("soon")


def test_the_plugins_own_adapter_is_used(plugins: PluginFolder) -> None:
    init = """
from aura_core.adapter import IntegrationAdapter
from aura_core.hookspecs import hookimpl

class Bird(IntegrationAdapter):
    id = "bird"

@hookimpl
def aura_integrations():
    return [Bird()]
"""
    plugins.add("bird", init=init, files={"manifest.toml": manifest_text("bird")})
    adapter = discover(plugins).open("bird").adapter
    assert isinstance(adapter, IntegrationAdapter)
    assert type(adapter).__name__ == "Bird"


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ("def aura_integrations():\n    return [object()]", "is not an IntegrationAdapter"),
        ("def aura_integrations():\n    return 5", "aura_integrations failed"),
        ("def aura_integration():\n    return []", "aura_integration"),
        ("def aura_secret_shelves():\n    return []", "aura_secret_shelves"),
    ],
)
def test_a_hook_that_breaks_its_contract_quarantines(
    plugins: PluginFolder, init: str, reason: str
) -> None:
    head = "from aura_core.hookspecs import hookimpl\n@hookimpl\n"
    plugins.add("bird", init=head + init, files={"manifest.toml": manifest_text("bird")})
    with pytest.raises(PluginError, match=reason):
        discover(plugins).open("bird")


def test_tools_come_with_their_source(plugins: PluginFolder) -> None:
    source = TOOLS.format(name="echo")
    text = manifest_text("bird", top='tools_module = "acme_bird.tools"') + (
        '[[tools]]\nname = "echo"\ndescription = "Answer with the text."\n'
    )
    plugins.add("bird", files={"manifest.toml": text, "tools.py": source})
    opened = discover(plugins).open("bird")
    assert [tool.name for tool in opened.tools] == ["echo"]
    assert opened.tools_source == source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (TOOLS.format(name="other"), "the tool echo is in the manifest only"),
        ("import httpx\n" + TOOLS.format(name="echo"), "imports httpx"),
        ("from . import x\n", "ImportError"),
        ("import aura_core.oauth\n", "ModuleNotFoundError|imports aura_core"),
    ],
)
def test_tools_that_do_not_fit_are_quarantined(
    plugins: PluginFolder, source: str, reason: str
) -> None:
    text = manifest_text("bird", top='tools_module = "acme_bird.tools"') + (
        '[[tools]]\nname = "echo"\ndescription = "Answer with the text."\n'
    )
    plugins.add("bird", files={"manifest.toml": text, "tools.py": source})
    with pytest.raises(PluginError, match=reason):
        discover(plugins).open("bird")


def test_a_folder_of_manifests_needs_no_plugin(plugins: PluginFolder, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "bird.toml").write_text(manifest_text("bird"))
    (folder / "code.toml").write_text(
        manifest_text("code", top='tools_module = "os.path"')
        + '[[tools]]\nname = "echo"\ndescription = "Answer with the text."\n'
    )
    registry = discover(plugins, manifest_dirs=[folder, tmp_path / "nowhere"])
    assert registry.open("bird").distribution == str(folder)
    assert "needs a plugin" in (line(registry, "code").reason or "")
    assert "is not a folder" in (line(registry, "nowhere").reason or "")


def test_plain_http_is_for_loopback_and_only_when_allowed(
    plugins: PluginFolder, tmp_path: Path
) -> None:
    def write(host: str) -> None:
        text = manifest_text("bird").replace("https://api.bird.example", f"http://{host}")
        (tmp_path / "bird.toml").write_text(text)

    write("127.0.0.1:9000")
    options = {"manifest_dirs": [tmp_path]}
    assert "plain http" in (line(discover(plugins, **options), "bird").reason or "")
    assert discover(plugins, allow_loopback_http=True, **options).get("bird").id == "bird"
    write("api.bird.example")
    refused = discover(plugins, allow_loopback_http=True, **options)
    assert line(refused, "bird").status == "quarantined"


def test_relocation_serves_a_manifest_from_a_twin(plugins: PluginFolder) -> None:
    plugins.add("bird", files={"manifest.toml": manifest_text("bird")})
    registry = discover(plugins, relocations={"bird": "http://127.0.0.1:9000"})
    located = registry.get("bird").locate("https://api.bird.example/v1/x?y=1")
    assert located == "http://127.0.0.1:9000/api.bird.example/v1/x?y=1"


@pytest.mark.parametrize(
    ("relocations", "reason"),
    [
        ({"bird": "http://twin.example"}, "not on loopback"),
        ({"bird": "https://127.0.0.1"}, "not on loopback"),
        ({"bird": "http://127.0.0.1@evil.example"}, "not on loopback"),
        ({"brid": "http://127.0.0.1:9000"}, "Did you mean 'bird'"),
    ],
)
def test_a_relocation_elsewhere_is_refused(
    plugins: PluginFolder, relocations: dict[str, str], reason: str
) -> None:
    plugins.add("bird", files={"manifest.toml": manifest_text("bird")})
    with pytest.raises(ConfigurationError, match=reason):
        discover(plugins, relocations=relocations)
