"""The place of the operator's choice, whoever reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura_control.bootstrap import open_checkpoints
from aura_control.settings import load_settings
from aura_core.compute import HostContext
from aura_core.errors import ConfigurationError
from aura_core.registry import Registry
from tests.core.conftest import plugins
from tests.core.plugins import PluginFolder, discover
from tests.core.test_registry_host import STORE

__all__ = ["plugins"]


def test_the_built_in_store_and_a_plugins(plugins: PluginFolder, tmp_path: Path) -> None:
    plugins.add("shop", init=STORE.format("s3"))
    registry: Registry = discover(plugins, context=HostContext(data_dir=tmp_path))
    settings = load_settings(data_dir=tmp_path / "a b")
    assert settings.checkpoint_place == f"file://{tmp_path}/a%20b/audit-checkpoints"
    own = open_checkpoints(settings, registry)
    assert (own.store.scheme, own.place) == ("file", settings.checkpoint_place)
    chosen = load_settings(data_dir=tmp_path, audit_checkpoints="s3://bucket/aura")
    assert open_checkpoints(chosen, registry).store.scheme == "s3"
    assert open_checkpoints(chosen, registry, place="file:///x").place == "file:///x"
    with pytest.raises(ConfigurationError, match="No plugin keeps checkpoints at ftp"):
        open_checkpoints(settings, registry, place="ftp://host/x")


@pytest.mark.parametrize("place", ["/var/lib", "s3:bucket", "S3://x", "file://"])
def test_a_place_is_a_url(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigurationError, match="AUDIT_CHECKPOINTS"):
        load_settings(data_dir=tmp_path, audit_checkpoints=place)
