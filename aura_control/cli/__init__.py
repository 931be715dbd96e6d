"""The command ``aura``. What serving takes (the web, the database, durable work) is imported by the
commands that need it, when they are called, so that the others start quickly."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    from aura_control.cli.main import build

    build()()
