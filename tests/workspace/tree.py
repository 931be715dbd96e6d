"""What the repository holds, as the tests about the workspace see it."""

from __future__ import annotations

import functools
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["ROOT", "Distribution", "distributions", "own_names", "repository_files"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """One folder with a ``pyproject.toml`` that names a project."""

    folder: Path
    pyproject: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.pyproject["project"]["name"])

    @property
    def declared_packages(self) -> list[str]:
        return list(self.pyproject["tool"]["setuptools"]["packages"])

    @property
    def sources(self) -> dict[str, Path]:
        """The top-level package's name, and the folder in which its modules lie."""
        ((name, folder),) = self.pyproject["tool"]["setuptools"]["package-dir"].items()
        if name:
            return {name: self.folder / folder}
        return {path.name: path for path in (self.folder / folder).iterdir() if path.is_dir()}

    @property
    def package_files(self) -> dict[str, Path]:
        """Every file of the packages: its path in a wheel, and where it lies in the tree."""
        own = {self.folder / "pyproject.toml", self.folder / "README.md"}
        return {
            str(PurePosixPath(name, path.relative_to(folder))): path
            for name, folder in self.sources.items()
            for path in repository_files()
            if path.is_relative_to(folder) and path not in own
        }

    @property
    def modules(self) -> list[str]:
        """The dotted name of every module, packages included, sorted."""
        return sorted(
            ".".join(PurePosixPath(name).with_suffix("").parts).removesuffix(".__init__")
            for name in self.package_files
            if name.endswith(".py")
        )

    def requirements(self) -> list[Requirement]:
        """Its dependencies, those of its extras included."""
        project = self.pyproject["project"]
        extras = project.get("optional-dependencies", {}).values()
        return [Requirement(line) for lines in [project["dependencies"], *extras] for line in lines]


def distributions() -> list[Distribution]:
    """Every distribution of the repository, sorted by folder."""
    files = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("aura_plugins/*/pyproject.toml")]
    return [
        Distribution(folder=file.parent, pyproject=tomllib.loads(file.read_text()))
        for file in sorted(files)
    ]


@functools.cache
def repository_files() -> list[Path]:
    """The files that are, or would be, in a commit: what git ignores is not the repository's."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return sorted({path for path in paths if path.is_file()})


def own_names() -> set[str]:
    """The canonical names of this repository's distributions."""
    return {canonicalize_name(distribution.name) for distribution in distributions()}
