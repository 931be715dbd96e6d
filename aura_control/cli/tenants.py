"""``aura tenants``: the customers of this control plane, for its operator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aura_control.cli.database import told_apart
from aura_control.cli.output import ExitCode, Output
from aura_control.cli.registry import open_vault
from aura_control.cli.where import DataDir
from aura_control.settings import load_settings

if TYPE_CHECKING:
    from aura_control.db.engine import Database
    from aura_control.db.models import Tenant

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Customers of this control plane (for its operator).")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

_LOOKS_EVERY = 0.5


@asynccontextmanager
async def _database(data_dir: Path | None) -> AsyncIterator[Database]:
    from aura_control.bootstrap import open_database
    from aura_control.db.schema import require_current_schema

    settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    vault = await asyncio.to_thread(open_vault, settings)
    await require_current_schema(settings.database)
    database = open_database(settings, vault)
    try:
        yield database
    finally:
        await database.close()


@app.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the tenants, deleted ones with their receipts."""
    output = Output(as_json=as_json)

    async def run() -> list[dict[str, Any]]:
        async with _database(data_dir) as database, database.reading() as tx:
            return [_row(tenant) for tenant in await tx.tenants.list()]

    with told_apart():
        rows = asyncio.run(run())
    output.document({"tenants": rows})
    output.table(
        ["TENANT", "NAME", "STATE", "SINCE"],
        [[row["id"], row["name"], row["state"], row["since"]] for row in rows],
    )


@app.command()
def delete(
    tenant: Annotated[str, typer.Argument(help="The tenant's id, or its name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    give_up: Annotated[
        bool,
        typer.Option(
            "--give-up",
            help="Ask providers that do not answer once more, and then leave their tokens to end"
            " by themselves; the receipt says which.",
        ),
    ] = False,
    wait: Annotated[int, typer.Option(help="Seconds to wait until it is done.")] = 600,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a tenant: end its access, revoke its tokens, destroy its machines, destroy its keys.

    The running control plane does it, and goes on whatever happens to this command; calling it
    again follows what is under way, and prints the receipt in the end.
    """
    output = Output(as_json=as_json)
    with told_apart():
        found = asyncio.run(_find(data_dir, tenant))
    if found.deleting_at is None and not yes:
        if as_json:
            raise output.fail({"title": "Deleting asks first; say --yes."}, ExitCode.USAGE)
        typer.confirm(f"Delete {found.name!r} ({found.id}) for good?", abort=True, err=True)
    with told_apart(), output.console.status("ending its access") as status:
        deleted = asyncio.run(_delete(data_dir, found.id, give_up, wait, status.update))
    if deleted is None:
        raise output.fail(
            {
                "title": f"It is not deleted yet after {wait} seconds, and goes on.",
                "hint": "Does the control plane run? It does the work; call this again to follow.",
            },
            ExitCode.FAILED,
        )
    output.document(_row(deleted))
    if not as_json:
        _print(output, deleted.receipt or {})


async def _find(data_dir: Path | None, name: str) -> Tenant:
    async with _database(data_dir) as database, database.reading() as tx:
        return await tx.tenants.find(name)


async def _delete(
    data_dir: Path | None, tenant_id: str, give_up: bool, wait: int, tell: Any
) -> Tenant | None:
    from aura_control.services.tenants import OPERATOR, progress_of

    async with _database(data_dir) as database:
        async with database.transaction() as tx:
            await tx.tenants.begin_deletion(tenant_id, actor=OPERATOR)
        deadline = time.monotonic() + wait
        while True:
            async with database.reading() as tx:
                tenant = await tx.tenants.get(tenant_id)
                left = await progress_of(tx, tenant)
            if tenant.deleted_at is not None:
                return tenant
            if time.monotonic() >= deadline:
                return None
            if give_up and left.revocations:
                async with database.transaction() as tx:
                    await tx.revocations.give_up_soon(tenant_id)
            tell(
                f"waiting for the control plane: {left.machines} machines, {left.connections}"
                f" connections, {left.revocations} revocations left"
            )
            await asyncio.sleep(_LOOKS_EVERY)  # another process does it, and only rows tell


def _row(tenant: Tenant) -> dict[str, Any]:
    state, since = "active", tenant.created_at
    if tenant.deleting_at is not None:
        state, since = "deleting", tenant.deleting_at
    if tenant.deleted_at is not None:
        state, since = "deleted", tenant.deleted_at
    return {
        "id": tenant.id,
        "name": tenant.name,
        "state": state,
        "since": since.isoformat(),
        "receipt": tenant.receipt,
    }


def _print(output: Output, receipt: dict[str, Any]) -> None:
    for connection in receipt.get("connections", []):
        for line in connection.get("tokens", []):
            words = f"{connection['provider']} {line['token']}: {line['outcome']} {line['detail']}"
            output.line(f"  {words.rstrip()}")
    for machine in receipt.get("machines", []):
        output.line(f"  machine {machine['instance_id'][:8]}: {machine['destroyed_at']} destroyed")
    output.line(f"  its keys are destroyed: {receipt.get('shredded_at')}", lead="deleted")
