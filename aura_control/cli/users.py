"""``aura users``: people of this control plane, for its operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from aura_control.cli.database import told_apart
from aura_control.cli.output import Output
from aura_control.cli.registry import open_vault
from aura_control.cli.where import DataDir
from aura_control.settings import load_settings

if TYPE_CHECKING:
    from aura_control.bootstrap import Owner

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="People of this control plane (for its operator).")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command()
def add(
    email: str,
    tenant: Annotated[str | None, typer.Option(help="The tenant's name.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add a user with a tenant of its own, and print an API token: it is shown only now."""
    from aura_control.bootstrap import add_user, open_database
    from aura_control.db.schema import require_current_schema

    output = Output(as_json=as_json)
    settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    vault = open_vault(settings)

    async def run() -> Owner:
        await require_current_schema(settings.database)
        database = open_database(settings, vault)
        try:
            return await add_user(database, tenant_name=tenant or email, email=email)
        finally:
            await database.close()

    with told_apart():
        owner = asyncio.run(run())
    output.document({"tenant_id": owner.tenant_id, "user_id": owner.user_id, "token": owner.token})
    if not as_json:
        output.line(f"{owner.email}: API token {owner.token}")
