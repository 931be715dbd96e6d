"""``aura plugins``: what is installed, and an offline twin of any provider."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from aura_control.cli.output import ExitCode, Output
from aura_control.cli.registry import open_registry
from aura_control.settings import load_settings
from aura_core.errors import AuraError

app = typer.Typer(no_args_is_help=True, help="Integrations and the distributions they come from.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List integrations without importing any of their code. Exits 1 if one is quarantined."""
    output = Output(as_json=as_json)
    listings = open_registry(load_settings()).listings()
    rows = [
        {
            "id": entry.id,
            "name": entry.manifest.name if entry.manifest else None,
            "category": entry.manifest.category if entry.manifest else None,
            "auth": [m.strategy for m in entry.manifest.auth] if entry.manifest else [],
            "status": entry.status,
            "distribution": entry.distribution,
            "reason": entry.reason,
        }
        for entry in listings
    ]
    output.document({"integrations": rows})
    output.table(
        ["ID", "NAME", "AUTH", "STATUS", "FROM"],
        [
            [
                str(row["id"]),
                str(row["name"] or ""),
                ", ".join(entry for entry in row["auth"]),
                str(row["status"]) + (f": {row['reason']}" if row["reason"] else ""),
                str(row["distribution"]),
            ]
            for row in rows
        ],
    )
    if any(row["status"] == "quarantined" for row in rows):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def twin(
    provider: Annotated[str, typer.Argument(help="Id of the integration.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Serve a provider offline, from its manifest, until interrupted."""
    from aura_core.testing.twin_server import serve_twin

    output = Output(as_json=as_json)

    def ready(origin: str) -> None:
        output.document({"provider": provider, "origin": origin, "pid": os.getpid()})
        if not as_json:
            output.line(f"[bold]{provider}[/] is served at {origin} (ctrl-c ends it)")
            output.line(f"  point a control plane at it: AURA_TWINS={provider}={origin}")

    try:
        manifest = open_registry(load_settings()).get(provider)
        asyncio.run(serve_twin(manifest, host="127.0.0.1", port=port, ready=ready))
    except AuraError as error:
        raise output.error(error) from None
