"""The table of commands."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import typer

__all__ = ["build"]


_COMMANDS = {"up": "serve", "serve": "serve", "connect": "connect", "compose": "compose",
             "doctor": "doctor"}  # fmt: skip
"""A command, and the module whose function of that name it is."""

_GROUPS = ("connections", "agents", "plugins", "tenants", "users", "keys", "audit")
"""Groups of commands; each is the ``app`` of the module of that name."""


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line. Where ``arguments`` begin with a command, it is the only one there: what
    the others import would be paid for each time that one runs."""
    called = arguments[0] if arguments and arguments[0] in {*_COMMANDS, *_GROUPS} else None
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,  # locals hold secrets
        add_completion=False,
        help="Connect an AI agent to services and run it, without giving it a credential.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 the control plane does"
        " not answer, 4 it refuses the API token, 5 the rest is yours to do; 'aura audit verify'"
        " has more of its own. With --json exactly one document is on standard output, also when a"
        " command fails.",
    )
    for name, module in _COMMANDS.items():
        if called in (None, name):
            app.command(name)(getattr(import_module(f"aura_control.cli.{module}"), name))
    for name in _GROUPS:
        if called in (None, name):
            app.add_typer(import_module(f"aura_control.cli.{name}").app, name=name)
    if called in _COMMANDS:
        app.callback()(_several)
    return app


def _several() -> None:
    """Keeps a lone command one that is called by its name."""
