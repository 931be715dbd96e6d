"""The command ``aura``. Each command's module is imported when it is called, so that
``aura --help`` and ``aura plugins list`` start quickly."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    from aura_control.cli.main import build

    build()()
