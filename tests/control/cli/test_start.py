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
