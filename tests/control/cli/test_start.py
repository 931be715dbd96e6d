"""A command that only reads files does not wait for what the control plane is served with."""

from __future__ import annotations

import subprocess
import sys

import pytest

_ASKED = """
import sys
from aura_control.cli import main
sys.argv[1:] = sys.argv[2:]
try:
    main()
except SystemExit:
    pass
print(*sorted(set(sys.modules) & {"alembic", "dbos", "sqlalchemy", "starlette", "uvicorn"}))
"""


_LISTED = """
import sys
from aura_control.cli import main
sys.argv[1:] = ["plugins", "list", *sys.argv[2:]]
try:
    main()
except SystemExit:
    pass
loaded = {name.partition(".")[0] for name in sys.modules} | {
    name for name in sys.modules if name.startswith("aura_control.cli.")
}
print(*sorted(name for name in loaded if name.startswith("aura_")))
"""


def _listed(*arguments: str) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", _LISTED, "aura", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return answer.stdout.splitlines()


def test_listing_hundreds_of_integrations_imports_none_and_no_other_command() -> None:
    *_, loaded = _listed()
    found = set(loaded.split())
    assert "aura_core" in found
    assert not {name for name in found if name.startswith("aura_plugin_")}
    assert not found & {"aura_control.cli.agents", "aura_control.cli.serve"}


def test_a_table_in_a_pipe_has_a_line_for_each_row_and_straight_columns() -> None:
    head, *lines, _ = _listed()
    assert len(lines) > 330
    assert [line.split()[0] for line in lines if line.startswith("aws ")] == ["aws"]
    for word, column in (("STATUS", ("available", "coming_soon")), ("FROM", ("aura-plugin-",))):
        at = head.index(word)
        assert all(line[at:].startswith(column) for line in lines)
    (soon,) = [line for line in lines if line.startswith("aws ")]
    assert "coming_soon: Requests are signed" in soon


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("plugins", "list"), ("up", "--help"), ("doctor", "--help"), ("users", "--help")],
    ids=" ".join,
)
def test_nothing_of_serving_is_imported(arguments: tuple[str, ...]) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _ASKED, "aura", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=150,
    )
    *shown, imported = answer.stdout.split("\n")[:-1]
    assert shown
    assert imported == ""
