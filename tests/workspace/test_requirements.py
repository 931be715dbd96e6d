"""The pinned requirements: hashed, without addresses, and those that the distributions declare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.workspace.tree import ROOT, distributions, own_names

CI = ROOT / ".ci"
LOCKED = pytest.mark.parametrize("file", [CI / "requirements.txt", CI / "runtime.txt"], ids=str)


def pins(file: Path) -> dict[str, tuple[str, list[str]]]:
    """The canonical name of each pinned package: its version and its hashes."""
    text = re.sub(r"#.*", "", file.read_text()).replace("\\\n", " ")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in filter(str.strip, text.splitlines()):
        match = re.fullmatch(r"([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert match, f"not a pinned and hashed requirement: {line[:80]!r}"
        found[canonicalize_name(match[1])] = (match[2], match[3].split())
    return found


@LOCKED
def test_each_line_is_a_pin_with_hashes_and_no_address(file: Path) -> None:
    assert len(pins(file)) > 40
    assert "://" not in file.read_text()


def test_the_runtime_is_a_part_of_development() -> None:
    development = pins(CI / "requirements.txt")
    for name, pinned in pins(CI / "runtime.txt").items():
        assert development[name] == pinned


def test_the_runtime_is_what_the_distributions_declare() -> None:
    wanted = {
        canonicalize_name(line)
        for line in re.findall(r"^[\w-]+", (CI / "runtime.in").read_text(), re.MULTILINE)
    }
    declared = {
        canonicalize_name(requirement.name)
        for distribution in distributions()
        for requirement in distribution.requirements()
    }
    tests_only = {"pytest", "respx"}  # of aura-core[testing]: a plugin author's, not the runtime's
    assert wanted - {"pip", "setuptools"} == declared - own_names() - tests_only


@pytest.mark.parametrize("file", ["runtime.in", "requirements.in"])
def test_each_dependency_has_its_reason(file: str) -> None:
    asked = re.findall(r"^[a-z][\w-]*", (CI / file).read_text(), re.MULTILINE)
    rows = [
        line.split("|")[1].replace(" ", "").split(",")
        for path in (ROOT / "docs/adr").glob("*.md")
        for line in path.read_text().splitlines()
        if line.startswith("| ") and line.count("|") > 2
    ]
    told = {canonicalize_name(name) for row in rows for name in row if name}
    assert {canonicalize_name(name) for name in asked} - {"pip", "setuptools"} <= told


def test_the_pins_satisfy_what_the_distributions_declare() -> None:
    pinned = pins(CI / "requirements.txt")
    for distribution in distributions():
        for requirement in distribution.requirements():
            name = canonicalize_name(requirement.name)
            if name in own_names():
                continue
            assert requirement.specifier.contains(pinned[name][0]), f"{distribution.name}: {name}"


def test_our_distributions_accept_each_other() -> None:
    versions = {found.name: found.pyproject["project"]["version"] for found in distributions()}
    accepted = {
        (distribution.name, requirement.name): requirement.specifier.contains(
            versions[requirement.name]
        )
        for distribution in distributions()
        for requirement in distribution.requirements()
        if requirement.name in versions
    }
    assert accepted
    assert all(accepted.values()), accepted


def test_the_node_lock_has_hashes_and_no_address() -> None:
    lock = json.loads((ROOT / "tests/oidc_provider/package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/oidc-provider" in packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name
