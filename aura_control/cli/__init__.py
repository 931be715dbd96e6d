"""The command ``aura``. What serving takes (the web, the database, durable work) is imported by the
commands that need it, when they are called, so that the others start quickly."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; an error of ours becomes its words and an exit code."""
    from aura_control.cli.main import build
    from aura_control.cli.output import Output
    from aura_core.errors import AuraError

    try:
        build(sys.argv[1:])()
    except AuraError as error:
        sys.exit(Output(as_json="--json" in sys.argv).error(error).exit_code)
