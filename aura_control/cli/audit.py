"""``aura audit``: verify, export and keep the tenants' audit logs, for the operator."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aura_control.cli.database import told_apart
from aura_control.cli.files import read_json_file
from aura_control.cli.output import AUDIT_CODES, Output
from aura_control.cli.registry import open_registry
from aura_control.cli.where import DataDir
from aura_control.settings import load_settings
from aura_core.errors import ConfigurationError

if TYPE_CHECKING:
    from aura_control.cli.auditing import Auditing
    from aura_control.db.verdict import AuditVerdict

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="The tenants' audit logs (for the operator). Exit codes of verify: 0 whole, 10 altered,"
    " 11 gap or reordered, 12 truncated, 13 forked or rewritten, 14 checkpoint unverifiable. Of"
    " several findings the worst decides: 13, 10, 11, 12, 14.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Tenant = Annotated[str, typer.Option(help="The tenant's id.")]
Place = Annotated[
    str | None, typer.Option(help="Where checkpoints lie, if not at AURA_AUDIT_CHECKPOINTS.")
]
Signers = Annotated[
    list[Path] | None,
    typer.Option("--signer", help="A file with further public keys, as 'aura audit signer' says."),
]

NEXT = {
    "altered": "Keep the database and the place of the checkpoints as they are, and compare the"
    " entry with a backup.",
    "gap": "Keep the database as it is, and take the missing entries from a backup.",
    "truncated": "Was an old backup restored? If not, somebody cut the log off.",
    "rewritten": "Whoever did this may hold the keys: rotate them, and disconnect what is named.",
    "unverifiable": "Look for the checkpoints where they were kept before, name earlier keys with"
    " --signer, and see who can write to that place.",
}

STALLED = (
    "Does the control plane run, and can it write to the place of the checkpoints? What has none"
    " can be rewritten unseen."
)


@app.command()
def verify(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant (its id).")] = None,
    checkpoints: Place = None,
    signer: Signers = None,
    file: Annotated[Path | None, typer.Option(help="Check an export instead.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Verify the logs of all tenants, against the database and the signed checkpoints."""
    from aura_control.cli.auditing import verdict_of_file, verdicts

    output = Output(as_json=as_json)
    further = _further(signer)
    if file is not None:
        found = [verdict_of_file(file, _load(data_dir), further)]
    else:
        with output.console.status("verifying") as status:

            def progress(tenant_id: str, entries: int) -> None:
                status.update(f"verifying {tenant_id}: {entries} entries")

            found = _run(
                data_dir,
                checkpoints,
                lambda auditing: verdicts(auditing, tenant, further, progress),
            )
    raise _answered(output, found)


def _answered(output: Output, found: Iterable[AuditVerdict]) -> typer.Exit:
    listed = sorted(found, key=lambda verdict: verdict.tenant_id)
    worst = max(listed, key=lambda verdict: verdict.state.rank, default=None)
    state = "whole" if worst is None else worst.state.value
    output.document({"state": state, "tenants": [_as_document(verdict) for verdict in listed]})
    output.table(
        ("tenant", "state", "entries", "from", "checkpoints"),
        (
            (
                verdict.tenant_id,
                f"{verdict.state.value}{', closed' if verdict.closed else ''}",
                str(verdict.entries),
                str(verdict.first),
                str(verdict.checkpoints),
            )
            for verdict in listed
        ),
    )
    if not output.as_json:
        for verdict in listed:
            for one in verdict.findings:
                where = "" if one.seq is None else f"entry {one.seq}: "
                output.line(f"{where}{one.detail}", lead=f"{verdict.tenant_id}:")
            for warning in verdict.warnings:
                output.line(warning, lead=f"{verdict.tenant_id}:", style="bold yellow")
        if any(verdict.warnings for verdict in listed):
            output.line(STALLED, lead="warning:", style="bold yellow")
        for name in sorted({one.state.value for verdict in listed for one in verdict.findings}):
            output.line(NEXT[name], lead=f"{name}:", style="bold red")
    return typer.Exit(AUDIT_CODES[state])


def _as_document(verdict: AuditVerdict) -> dict[str, Any]:
    return {
        "tenant_id": verdict.tenant_id,
        "state": verdict.state.value,
        "closed": verdict.closed,
        "entries": verdict.entries,
        "first": verdict.first,
        "checkpoints": verdict.checkpoints,
        "warnings": list(verdict.warnings),
        "findings": [
            {"state": one.state.value, "seq": one.seq, "target": one.target, "detail": one.detail}
            for one in verdict.findings
        ],
    }


@app.command()
def export(
    tenant: Tenant,
    since: Annotated[datetime | None, typer.Option(help="From this time (UTC) on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time (UTC).")] = None,
    out: Annotated[Path | None, typer.Option(help="A file; standard output otherwise.")] = None,
    signer: Signers = None,
    checkpoints: Place = None,
    data_dir: DataDir = None,
) -> None:
    """Write a tenant's log as JSON Lines, signed, for others to check."""
    from aura_control.cli.auditing import exported

    def run(auditing: Auditing) -> Awaitable[Any]:
        return exported(auditing, tenant, further, write, since=_utc(since), until=_utc(until))

    further = _further(signer)
    output = Output(as_json=True)  # what is said goes to standard error, whatever is exported where
    if out is None:
        write = sys.stdout.buffer.write
        done = _run(data_dir, checkpoints, run)
        sys.stdout.buffer.flush()
    else:
        temporary = out.with_name(f".{out.name}.new")
        with told_apart():
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as handle:
                    write = handle.write
                    done = _run(data_dir, checkpoints, run)
                temporary.replace(out)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
    output.line(f"{done.entries} entries, log {done.state.value}", lead="exported", style="bold")


@app.command()
def retention(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    days: Annotated[int, typer.Argument(help="How long entries are kept; 90 by default.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Set for how many days a tenant's entries are kept; older ones are deleted daily."""
    from aura_control.cli.auditing import retained

    output = Output(as_json=as_json)
    before = _run(data_dir, None, lambda auditing: retained(auditing, tenant, days))
    output.document({"tenant_id": tenant, "days": days, "before": before})
    if not as_json:
        output.line(f"entries are kept for {days} days (before: {before})")


@app.command()
def signer(data_dir: DataDir = None) -> None:
    """Print the public key that checkpoints and exports verify with, as JSON."""
    from aura_control.bootstrap import load_signing
    from aura_core.encoding import b64url

    signing = load_signing(_load(data_dir))
    Output(as_json=True).document({signing.signer_kid: b64url(signing.sig_public)})


def _load(data_dir: Path | None) -> Any:
    return load_settings() if data_dir is None else load_settings(data_dir=data_dir)


def _run(
    data_dir: Path | None, place: str | None, work: Callable[[Auditing], Awaitable[Any]]
) -> Any:
    from aura_control.cli.auditing import opened

    settings = _load(data_dir)
    registry = open_registry(settings)

    async def run() -> Any:
        async with opened(settings, registry, place) as auditing:
            return await work(auditing)

    with told_apart():
        return asyncio.run(run())


def _further(files: list[Path] | None) -> dict[str, str]:
    keys: dict[str, str] = {}
    for path in files or ():
        document = read_json_file(path)
        if not all(isinstance(value, str) for value in document.values()):
            raise ConfigurationError(f"{path} does not hold public keys by their ids.")
        keys |= document
    return keys


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)
