"""The table of commands."""

from __future__ import annotations

import typer

from aura_control.cli import (
    agents,
    audit,
    compose,
    connect,
    connections,
    doctor,
    keys,
    plugins,
    serve,
    tenants,
    users,
)

__all__ = ["build"]


def build() -> typer.Typer:
    """The command line with all its commands."""
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
    app.command()(serve.up)
    app.command()(serve.serve)
    app.command()(connect.connect)
    app.command()(compose.compose)
    app.command()(doctor.doctor)
    app.add_typer(connections.app, name="connections")
    app.add_typer(agents.app, name="agents")
    app.add_typer(keys.app, name="keys")
    app.add_typer(plugins.app, name="plugins")
    app.add_typer(tenants.app, name="tenants")
    app.add_typer(users.app, name="users")
    app.add_typer(audit.app, name="audit")
    return app
