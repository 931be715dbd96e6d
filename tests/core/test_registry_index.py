"""Many manifests of one plugin: grouped in folders, and listed by a compiled index."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from aura_core.errors import Conflict, DuplicateIntegration, PluginError
from aura_core.registry import Registry
from aura_core.registry import _catalogue as catalogue
from tests.core.plugins import PluginFolder, discover, line, manifest_text

_SOON = 'status = "coming_soon"\nstatus_reason = "Requests are signed."'


def _zoo(plugins: PluginFolder, index: Mapping[str, Any] | None = None, **changed: str) -> Registry:
    texts = {
        "birds/ant.toml": manifest_text("ant"),
        "birds/cat.toml": manifest_text("cat", top=_SOON),
        "dog.toml": manifest_text("dog"),
    }
    told = {name: tomllib.loads(text) for name, text in texts.items()} if index is None else index
    files = {f"manifests/{name}": text for name, text in {**texts, **changed}.items()}
    plugins.add("zoo", files={**files, "manifests/index.json": json.dumps(told)})
    return discover(plugins)


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a manifest was read")

    monkeypatch.setattr(catalogue, "load_manifest", refuse)
    monkeypatch.setattr(catalogue, "check_manifest", refuse)


@pytest.mark.usefixtures("nothing_is_read")
def test_listing_by_an_index_reads_no_manifest(plugins: PluginFolder) -> None:
    registry = _zoo(plugins)
    shown = [(x.id, x.name, x.category, x.strategies, x.status) for x in registry.listings()]
    assert shown == [
        ("ant", "Ant", "tests", ("api_key",), "available"),
        ("cat", "Cat", "tests", ("api_key",), "coming_soon"),
        ("dog", "Dog", "tests", ("api_key",), "available"),
    ]
    assert line(registry, "cat").reason == "Requests are signed."
    with pytest.raises(Conflict, match="Cat") as soon:
        registry.open("cat")
    assert soon.value.hint == "Requests are signed."
    assert plugins.loaded() == []


def test_opening_one_checks_that_one(plugins: PluginFolder) -> None:
    registry = _zoo(plugins)
    assert registry.open("ant").manifest.name == "Ant"
    assert registry.get("dog").hosts == ("api.dog.example",)
    assert [m.id for m in registry.by_strategy("api_key")] == ["ant", "cat", "dog"]


def test_groups_of_manifests_need_no_index(plugins: PluginFolder) -> None:
    plugins.add("zoo", files={"manifests/birds/ant.toml": manifest_text("ant")})
    assert discover(plugins).get("ant").name == "Ant"


@pytest.mark.parametrize(
    "index",
    [
        pytest.param({}, id="empty"),
        pytest.param([], id="a list"),
        pytest.param({"dog.toml": {"id": "dog"}}, id="of fewer files"),
        pytest.param(
            {"dog.toml": 1, "birds/ant.toml": {}, "birds/cat.toml": {}}, id="of no documents"
        ),
        pytest.param(
            {"dog.toml": {"id": 1}, "birds/ant.toml": {"auth": [1]}, "birds/cat.toml": {}},
            id="of nonsense",
        ),
    ],
)
def test_an_index_that_does_not_fit_is_passed_over(plugins: PluginFolder, index: Any) -> None:
    registry = _zoo(plugins, index)
    assert [x.id for x in registry.listings()] == ["ant", "cat", "dog"]
    assert registry.get("dog").name == "Dog"


def test_an_index_that_is_no_json_is_passed_over(plugins: PluginFolder) -> None:
    plugins.add(
        "zoo", files={"manifests/ant.toml": manifest_text("ant"), "manifests/index.json": "{"}
    )
    assert discover(plugins).get("ant").name == "Ant"


def test_what_does_not_check_is_quarantined_when_it_is_asked_for(plugins: PluginFolder) -> None:
    good = tomllib.loads(manifest_text("dog"))
    told = {
        "dog.toml": {**good, "hostz": []},
        "birds/ant.toml": tomllib.loads(manifest_text("ant")),
        "birds/cat.toml": tomllib.loads(manifest_text("cat", top=_SOON)),
    }
    registry = _zoo(plugins, told)
    assert line(registry, "dog").status == "available"
    for _ in range(2):
        with pytest.raises(PluginError, match=r"dog\.toml: hostz: is not a key here"):
            registry.get("dog")
    assert line(registry, "dog").status == "quarantined"
    assert line(registry, "dog").manifest is None
    assert registry.open("ant").manifest.name == "Ant"
    assert [m.id for m in registry.by_strategy("api_key")] == ["ant", "cat"]


def test_an_id_that_an_index_offers_again_is_a_duplicate(plugins: PluginFolder) -> None:
    plugins.add("bird", files={"manifest.toml": manifest_text("ant")})
    registry = _zoo(plugins)
    assert line(registry, "ant").status == "quarantined"
    with pytest.raises(DuplicateIntegration, match=r"acme-bird 1\.0 and acme-zoo 1\.0"):
        registry.get("ant")
