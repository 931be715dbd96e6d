"""Plugins that serve the host itself: computes, runtimes, observers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from aura_core.compute import HostContext
from aura_core.errors import (
    ConfigurationError,
)
from tests.core.plugins import PluginFolder, discover, line, manifest_text

COMPUTE = """
from aura_core.hookspecs import hookimpl

class Fake:
    id = "{0}"
    name = "Fake"

@hookimpl
def aura_computes(context):
    return [Fake()]
"""


@pytest.fixture
def context(tmp_path: Path) -> HostContext:
    return HostContext(data_dir=tmp_path / "data")


def test_computes_import_only_plugins_that_may_offer_one(
    plugins: PluginFolder, context: HostContext
) -> None:
    plugins.add("bird", files={"manifest.toml": manifest_text("bird")})
    plugins.add("cloud", init=COMPUTE.format("cloud"))
    plugins.add(
        "both",
        init=COMPUTE.format("both"),
        files={"manifest.toml": manifest_text("both"), "plugin.toml": 'provides = ["compute"]'},
    )
    registry = discover(plugins, context=context)
    assert sorted(registry.computes()) == ["both", "cloud"]
    assert registry.runtimes() == {}
    assert sorted(plugins.loaded()) == ["acme_both", "acme_cloud"]


def test_computes_with_one_id_are_rejected_naming_both(
    plugins: PluginFolder, context: HostContext
) -> None:
    plugins.add("one", init=COMPUTE.format("cloud"))
    plugins.add("two", init=COMPUTE.format("cloud"))
    plugins.add("three", init=COMPUTE.format("other"))
    plugins.add("broken", init="1 / 0")
    registry = discover(plugins, context=context)
    assert list(registry.computes()) == ["other"]
    assert "acme-one 1.0 and acme-two 1.0" in (line(registry, "cloud").reason or "")
    assert "ZeroDivisionError" in (line(registry, "broken").reason or "")


STORE = """
from aura_core.hookspecs import hookimpl

class Fake:
    scheme = "{0}"

@hookimpl
def aura_checkpoint_stores(context):
    return [Fake()]
"""


def test_places_for_checkpoints_are_found_by_their_scheme(
    plugins: PluginFolder, context: HostContext
) -> None:
    for name, scheme in (("one", "s3"), ("two", "ftp"), ("three", "ftp")):
        plugins.add(name, init=STORE.format(scheme))
    registry = discover(plugins, context=context)
    assert list(registry.checkpoint_stores()) == ["s3"]
    assert "acme-three 1.0 and acme-two 1.0" in (line(registry, "ftp").reason or "")


def test_computes_need_a_context(plugins: PluginFolder) -> None:
    with pytest.raises(ConfigurationError):
        discover(plugins).computes()


def test_observers_hear_of_events_and_cannot_disturb(
    plugins: PluginFolder, caplog: pytest.LogCaptureFixture
) -> None:
    head = "from aura_core.hookspecs import hookimpl\nheard = []\n@hookimpl\n"
    plugins.add("loud", init=head + "def aura_connected(provider):\n    raise ValueError('no')")
    plugins.add("calm", init=head + "def aura_connected(provider):\n    heard.append(provider)")
    registry = discover(plugins)
    with caplog.at_level(logging.ERROR):
        registry.notify("aura_connected", provider="bird", user_id="u", connection_id="c")
    import acme_calm  # type: ignore[import-not-found]

    assert acme_calm.heard == ["bird"]
    assert "acme-loud 1.0" in caplog.text
