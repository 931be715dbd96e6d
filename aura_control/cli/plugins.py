"""``aura plugins``: what is installed, and an offline twin of any provider."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from aura_control.cli.output import ExitCode, Output
from aura_control.cli.registry import open_registry
from aura_control.settings import load_settings
from aura_core.errors import ConfigurationError
from aura_core.registry import Listing

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Integrations and the distributions they come from.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List integrations without importing any of their code. Exits 1 if one is quarantined."""
    output = Output(as_json=as_json)
    listings = open_registry(load_settings()).listings()
    output.document({"integrations": [_row(entry) for entry in listings]})
    output.table(
        ["ID", "NAME", "AUTH", "STATUS", "FROM"],
        [
            [
                entry.id,
                entry.name if entry.entry else "",
                ", ".join(entry.strategies),
                entry.status + (f": {entry.reason}" if entry.reason else ""),
                entry.distribution,
            ]
            for entry in listings
        ],
    )
    if any(entry.status == "quarantined" for entry in listings):
        raise typer.Exit(ExitCode.FAILED)


def _row(entry: Listing) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name if entry.entry else None,
        "category": entry.category,
        "auth": list(entry.strategies),
        "status": entry.status,
        "distribution": entry.distribution,
        "reason": entry.reason,
    }


@app.command()
def twin(
    provider: Annotated[str, typer.Argument(help="Id of the integration.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Serve a provider offline, from its manifest, until interrupted."""
    import asyncio

    from aura_core.testing.twin_server import serve_twin

    output = Output(as_json=as_json)

    def ready(origin: str) -> None:
        output.document({"provider": provider, "origin": origin, "pid": os.getpid()})
        if not as_json:
            output.line(f"is served at {origin} (ctrl-c ends it)", lead=provider)
            output.line(f"  point a control plane at it: AURA_TWINS={provider}={origin}")

    manifest = open_registry(load_settings()).get(provider)
    try:
        asyncio.run(serve_twin(manifest, host="127.0.0.1", port=port, ready=ready))
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} cannot be used: {error.strerror}.", hint="Choose another with --port."
        ) from None
