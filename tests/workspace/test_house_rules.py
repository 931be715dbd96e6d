"""The rules of the house that reading the files can hold. Each says why it is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.workspace.tree import ROOT, distributions, repository_files

LONGEST = 350  # lines: past that a file holds more than one thing
VAGUE = {"util", "utils", "helper", "helpers", "misc", "common"}  # names that say nothing
# A lock or a script that names a registry is bound to it; mirrors are set where one installs.
REGISTRIES = re.compile(r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|deb[.]debian[.]org")
# A path of one machine in a file makes a clone that works on no other.
MACHINE_PATHS = re.compile(r"(?<![\w.$}>-])/(?:work|root|tmp/wt)/|[.][.]/shared\b")
UNFINISHED = re.compile(
    r"\b(?:TO"
    r"DO|FIX"
    r"ME|XX"
    r"X|NotImplemented"
    r"Error)\b|pytest[.]mark[.](?:skip|xfail)"
    r"|pragma: no"
    r" cover"
)


def texts() -> list[tuple[Path, str]]:
    """Every text file of the repository with what it says."""
    found = []
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found.append((path.relative_to(ROOT), content.decode()))
    return found


def lines_matching(pattern: re.Pattern[str], suffix: str = "") -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        if path.name.endswith(suffix)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_registry() -> None:
    assert lines_matching(REGISTRIES) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert lines_matching(MACHINE_PATHS) == []


def test_nothing_is_left_unfinished() -> None:
    assert lines_matching(UNFINISHED, ".py") == []


def test_no_module_is_longer_than_one_thing() -> None:
    long = {
        str(path): count
        for path, text in texts()
        if path.suffix == ".py" and (count := len(text.splitlines())) > LONGEST
    }
    assert long == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [str(path) for path, _ in texts() if path.suffix == ".py" and path.stem in VAGUE] == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (REGISTRIES, "index = https://" + "pypi" + ".org/simple"),
        (MACHINE_PATHS, "open('/" + "work/x')"),
        (MACHINE_PATHS, "home = /" + "root/.cache"),
        (UNFINISHED, "# TO" + "DO: later"),
    ],
)
def test_the_rules_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


def test_the_tools_know_every_distribution() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    tops = sorted(top for distribution in distributions() for top in distribution.sources)
    assert tools["importlinter"]["root_packages"] == tops
    plugins = sorted(ROOT.glob("aura_plugins/*/src"))
    assert tools["mypy"]["mypy_path"] == [
        "$MYPY_CONFIG_FILE_DIR",
        *(f"$MYPY_CONFIG_FILE_DIR/{path.relative_to(ROOT)}" for path in plugins),
    ]


def test_every_change_note_has_a_kind_that_is_known() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    kinds = {kind["directory"] for kind in tools["towncrier"]["type"]}
    known = re.compile(rf"\+[\w-]+[.](?:{'|'.join(kinds)})[.]md")
    notes = {path.name for path in (ROOT / "docs/changelog.d").iterdir()} - {"README.md"}
    assert [name for name in sorted(notes) if not known.fullmatch(name)] == []


def test_names_of_tests_are_the_same_from_run_to_run() -> None:
    # pytest names a parameter by its value, and two processes must collect the same names. The
    # time in a gzip header changes every second.
    found = [
        f"{path}:{number}"
        for path, text in texts()
        if path.suffix == ".py" and path.name.startswith("test_")
        for number, line in enumerate(text.splitlines(), 1)
        if re.match(r"\s+\(gzip\.compress\((?!.*mtime=0)", line)
    ]
    assert found == []


def test_every_logger_of_the_control_plane_masks_secrets() -> None:
    # structlog's own default prints the local variables of a traceback's frames.
    found = [
        str(path)
        for path, text in texts()
        if str(path).startswith("aura_control/")
        and path.name != "logs.py"
        and re.search(r"structlog\.(get_logger|wrap_logger)|logging\.getLogger\(__name__\)", text)
    ]
    assert found == []
