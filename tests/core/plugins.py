"""Plugins made for a test: real distributions with metadata in a folder on the path."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

from aura_core.registry import Listing, Registry

__all__ = [
    "PluginFolder",
    "discover",
    "line",
    "manifest_text",
]


def manifest_text(provider: str, *, name: str | None = None, extra: str = "", top: str = "") -> str:
    """A small manifest with an API key; ``top`` goes before the first table."""
    return f"""
id = "{provider}"
name = "{name or provider.title()}"
category = "tests"
hosts = ["api.{provider}.example"]
{top}
[api]
base_url = "https://api.{provider}.example"
[[auth]]
strategy = "api_key"
{extra}
"""


class PluginFolder:
    """A folder like ``site-packages``; :meth:`add` installs a distribution into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: list[str] = []

    def add(
        self,
        name: str,
        *,
        files: Mapping[str, str] | None = None,
        init: str = "",
        module: str | None = None,
        version: str = "1.0",
    ) -> str:
        """Install ``acme-NAME`` with the package ``acme_NAME``; answers the package's name."""
        package = f"acme_{name}"
        self.modules.append(package)
        for path, text in {"__init__.py": init, **(files or {})}.items():
            target = self.root / package / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        info = self.root / f"acme_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[aura.plugins]\n{name} = {module or package}\n")
        return package

    def entry_points(self) -> list[EntryPoint]:
        found: list[EntryPoint] = []
        for distribution in importlib.metadata.distributions(path=[str(self.root)]):
            found += distribution.entry_points
        return found

    @contextmanager
    def on_path(self) -> Iterator[PluginFolder]:
        """The folder is importable inside; afterwards nothing of it is loaded."""
        sys.path.insert(0, str(self.root))
        try:
            yield self
        finally:
            sys.path.remove(str(self.root))
            for loaded in self.loaded():
                del sys.modules[loaded]

    def loaded(self) -> list[str]:
        """Modules of these plugins that have been imported."""
        return [name for name in sys.modules if name.split(".")[0] in self.modules]


def discover(plugins: PluginFolder, **options: object) -> Registry:
    return Registry.discover(entry_points=plugins.entry_points(), **options)  # type: ignore[arg-type]


def line(registry: Registry, provider: str) -> Listing:
    (found,) = [listing for listing in registry.listings() if listing.id == provider]
    return found
