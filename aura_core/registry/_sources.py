"""Where integrations come from: installed plugins and the operator's folders of manifests.

Nothing here imports a plugin. A plugin's folder is found by the import system's *finders*, which
for a top-level name only look at files; the rest of a dotted name is walked as folders.
"""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from aura_core.errors import PluginError

__all__ = ["INDEX", "Source", "directory_sources", "plugin_sources"]

INDEX = "index.json"
"""Beside many manifests: all of them as one document, by their paths."""

CONTRIBUTIONS = frozenset(
    {"integrations", "compute", "runtime", "observer", "secret_store", "checkpoint_store"}
)
"""What ``plugin.toml`` may say that a plugin provides beside manifests."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One origin of manifests; no two are equal. ``module`` is ``None`` for a folder of the
    operator's."""

    distribution: str
    name: str
    module: str | None
    files: tuple[Path, ...] = ()
    index: Path | None = None
    """The compiled index of ``files``, where the plugin ships one."""
    provides: frozenset[str] = frozenset()
    fault: str | None = None
    """Why nothing can be read from here."""

    @property
    def serves_the_host(self) -> bool:
        """Whether its code must be imported before anybody opens one of its integrations."""
        return self.module is not None and (not self.files or bool(self.provides))


def plugin_sources(entry_points: Iterable[EntryPoint]) -> Iterator[Source]:
    """One source for each entry point, in order of name; a broken one has a ``fault``."""
    for point in sorted(entry_points, key=lambda p: (p.name, p.value)):
        dist = point.dist
        label = point.name if dist is None else f"{dist.name} {dist.version}"
        try:
            folders = tuple(_folders(point.module))
            yield Source(
                distribution=label,
                name=point.name,
                module=point.module,
                files=tuple(_manifests(folders)),
                index=next(filter(Path.is_file, (f / "manifests" / INDEX for f in folders)), None),
                provides=frozenset().union(*map(_provides, folders)),
            )
        except (PluginError, ImportError, OSError, ValueError) as error:
            yield Source(distribution=label, name=point.name, module=point.module, fault=str(error))


def directory_sources(directories: Iterable[Path]) -> Iterator[Source]:
    """One source for each folder that the operator named."""
    for directory in directories:
        fault = None if directory.is_dir() else "is not a folder that can be read"
        files = () if fault else tuple(sorted(directory.glob("*.toml")))
        yield Source(
            distribution=str(directory), name=directory.name, module=None, files=files, fault=fault
        )


def _folders(module: str) -> Iterator[Path]:
    """The folders of an entry point's module (a namespace package has several)."""
    top, *rest = module.split(".")
    # Only for a name without dots is find_spec free of imports: it imports the parents of others.
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise PluginError(f"its module {module} is not installed")
    roots = [Path(location) for location in spec.submodule_search_locations or ()]
    for root in roots:
        folder = root
        for part in rest:
            folder = folder / part if (folder / part).is_dir() else folder
        if folder.is_dir():
            yield folder


def _manifests(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        if (folder / "manifest.toml").is_file():
            yield folder / "manifest.toml"
        yield from _tomls(folder / "manifests")


def _tomls(folder: Path) -> Iterator[Path]:
    """Manifests of a folder and of the groups in it, one level deep."""
    if not folder.is_dir():
        return
    # scandir and not glob: hundreds of files are looked through whenever something is listed.
    with os.scandir(folder) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    for entry in inside:
        if entry.is_dir():
            names = sorted(name for name in os.listdir(entry.path) if name.endswith(".toml"))
            yield from (Path(entry.path, name) for name in names)
        elif entry.name.endswith(".toml"):
            yield Path(entry.path)


def _provides(folder: Path) -> frozenset[str]:
    path = folder / "plugin.toml"
    if not path.is_file():
        return frozenset()
    # TOMLDecodeError and UnicodeDecodeError are ValueErrors: the caller names the plugin.
    said = tomllib.loads(path.read_text("utf-8")).get("provides", [])
    if not isinstance(said, list) or not all(isinstance(word, str) for word in said):
        raise PluginError("plugin.toml: provides is a list of words")
    unknown = sorted(set(said) - CONTRIBUTIONS)
    if unknown:
        raise PluginError(
            f"plugin.toml: provides: {unknown[0]!r} is none of {', '.join(sorted(CONTRIBUTIONS))}"
        )
    return frozenset(said)
