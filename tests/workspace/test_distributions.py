"""Each distribution's pyproject.toml says what its folder holds and what its code imports."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.workspace.tree import Distribution, distributions, own_names

EVERY = pytest.mark.parametrize(
    "distribution", [pytest.param(found, id=found.name) for found in distributions()]
)


def test_the_distributions_are_found() -> None:
    assert {"aura-core", "aura-vmd", "aura-control", "aura-cloudinit-templates"} <= own_names()
    assert any(name.startswith("aura-plugin-") for name in own_names())


@EVERY
def test_packages_are_the_folders_with_modules(distribution: Distribution) -> None:
    folders = {
        str(Path(name).parent).replace("/", ".")
        for name in distribution.package_files
        if name.endswith(".py")
    }
    assert distribution.declared_packages == sorted(folders)


@EVERY
def test_packages_are_packages_and_typed(distribution: Distribution) -> None:
    files = distribution.package_files
    for package in distribution.declared_packages:
        assert f"{package.replace('.', '/')}/__init__.py" in files
    for top in distribution.sources:
        assert f"{top}/py.typed" in files


@EVERY
def test_what_is_imported_is_declared(distribution: Distribution) -> None:
    declared = {canonicalize_name(found.name) for found in distribution.requirements()}
    declared.add(canonicalize_name(distribution.name))
    undeclared = {
        f"{name}: {imported}"
        for name, path in distribution.package_files.items()
        if name.endswith(".py")
        for imported in imported_roots(path) - sys.stdlib_module_names
        if not providers(imported) & declared
    }
    assert not undeclared


def imported_roots(path: Path) -> set[str]:
    """The first part of every absolute import in a file, wherever it stands."""
    roots: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), path.name)):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


# Reading every installed distribution's list of files takes a second: once is enough.
installed = functools.cache(metadata.packages_distributions)


def providers(module: str) -> set[str]:
    """The distributions that provide a top-level module: ours by the tree, others as installed."""
    ours = {found.name for found in distributions() if module in found.sources}
    return {canonicalize_name(name) for name in ours or installed().get(module) or ()}


@EVERY
def test_plugins_register_the_module_they_bring(distribution: Distribution) -> None:
    points = distribution.pyproject["project"].get("entry-points", {}).get("aura.plugins", {})
    plugin = distribution.folder.name
    if distribution.folder.parent.name == "aura_plugins":
        assert distribution.name == f"aura-plugin-{plugin}"
        assert points == {plugin: f"aura_plugin_{plugin}"}
        assert list(distribution.sources) == [f"aura_plugin_{plugin}"]
    else:
        assert points == {}


@EVERY
def test_scripts_name_functions_that_exist(distribution: Distribution) -> None:
    files = distribution.package_files
    for target in distribution.pyproject["project"].get("scripts", {}).values():
        module, _, function = target.partition(":")
        stem = module.replace(".", "/")
        path = files.get(f"{stem}.py") or files[f"{stem}/__init__.py"]
        tree = ast.parse(path.read_text())
        assert function in top_level_names(tree), f"{module} has no {function}"


def top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


@EVERY
def test_a_wheel_made_of_the_sdist_holds_every_file(
    distribution: Distribution, tmp_path: Path
) -> None:
    # A copy, because setuptools leaves its build folders beside the sources; the sdist first,
    # because a file that it lacks is missing only for those who install from it.
    source = tmp_path / distribution.folder.name
    shutil.copytree(
        distribution.folder,
        source,
        ignore=shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info"),
    )
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "out", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == set(distribution.package_files)
