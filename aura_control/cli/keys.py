"""``aura keys``: the master keys, for the operator. It works on the keyring and the database
themselves, beside the control plane's processes and without asking them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aura_control.cli.database import told_apart
from aura_control.cli.output import ExitCode, Output
from aura_control.cli.where import DataDir
from aura_control.settings import load_settings

if TYPE_CHECKING:
    from aura_control.cli.key_ring import Keys
    from aura_control.services.rotation import Rewrapped

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The master keys that credentials are sealed under.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="A new file for the new keyring, where AURA_MASTER_KEYS holds it."),
]


def _keys(data_dir: Path | None) -> Keys:
    # Here, because it imports the database, which other commands would wait for in vain.
    from aura_control.cli.key_ring import Keys

    return Keys.of(load_settings() if data_dir is None else load_settings(data_dir=data_dir))


@app.command()
def rotate(
    store: Annotated[
        str | None,
        typer.Option(help="Keep the new key there: vault:kv/data/aura/master-keys, for example."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option(help="Add the new key and do not use it yet; then rotate again.")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Make no new key: only seal again what older keys sealed.")
    ] = False,
    out: Out = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a new master key and seal everything again under it, while Aura is running.

    Interrupted, it is run again and goes on. Exits 1 if something does not open under any key, and
    5 if the rest is yours to do: it says what.
    """
    output = Output(as_json=as_json)
    keys = _keys(data_dir)

    async def run() -> None:
        async with keys.alone():
            going_on = resume or await keys.unfinished()
            if not going_on:
                kid = await asyncio.to_thread(keys.renew, store=store, prepare=prepare, out=out)
                if prepare or out is not None:
                    _handed_over(output, kid, prepare=prepare, out=out)
            elif not resume:
                output.line("an earlier rotation is finished first; no new key is made")
            _tell_rewrapped(output, await _rewrap(keys, output), keys.vault.keyring.active)

    with told_apart():
        asyncio.run(run())


async def _rewrap(keys: Keys, output: Output) -> Rewrapped:
    with output.console.status("sealing again") as status:
        done: dict[str, int] = {}

        def progress(place: str, rows: int) -> None:
            done[place] = rows
            status.update(f"sealing again: {_rows(done)}")

        return await keys.rewrap(progress)


def _handed_over(output: Output, kid: str, *, prepare: bool, out: Path | None) -> None:
    """The rest is the operator's: says it and ends the command."""
    steps = []
    if out is not None:
        steps.append(f"Set AURA_MASTER_KEYS to what is in {out}, for every process; delete it.")
    elif prepare:
        steps.append("Copy the keyring to every host that has a copy of its own.")
    steps.append("Then: aura keys rotate" + ("" if prepare else " --resume"))
    output.document({"active" if not prepare else "prepared": kid, "next": steps})
    if not output.as_json:
        output.line("is prepared" if prepare else "is to become the active key", lead=kid)
        for step in steps:
            output.line(f"  {step}")
    raise typer.Exit(ExitCode.YOURS)


def _tell_rewrapped(output: Output, found: Rewrapped, active: str) -> None:
    lost = sum(found.unreadable.values())
    output.document({"active": active, **asdict(found)})
    if not output.as_json:
        output.line(f"sealed again under {active}: {_rows(found.rows) or 'nothing'}", lead="done")
        if lost:
            output.line(
                f"  {_rows(found.unreadable)} do not open under any key; the audit log says which"
            )
    if lost:
        raise typer.Exit(ExitCode.FAILED)


def _rows(by_place: Mapping[str, int]) -> str:
    return ", ".join(
        f"{rows} {place.replace('_', ' ')}" for place, rows in by_place.items() if rows
    )


@app.command()
def status(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show each key: where it is kept, what is sealed under it, and how much it was used."""
    output = Output(as_json=as_json)
    keys = _keys(data_dir)
    with told_apart():
        found = asyncio.run(keys.status())
    documents: list[dict[str, Any]] = [
        {
            "kid": one.kid,
            "state": one.state,
            "kept": one.kept,
            "sealed": dict(one.sealed),
            "uses": one.uses,
            "used_up": one.used_up,
            "retirable": one.retirable,
        }
        for one in found
    ]
    output.document({"keys": documents})
    output.table(
        ["KEY", "STATE", "KEPT", "SEALED", "SEALS USED", "CAN BE RETIRED"],
        [
            [
                one.kid,
                one.state,
                one.kept,
                _rows(one.sealed) or "nothing",
                f"{one.uses} of 2^30",
                "yes" if one.retirable else "",
            ]
            for one in found
        ],
    )


@app.command()
def retire(
    kid: Annotated[str | None, typer.Argument(help="The key; else the oldest unused one.")] = None,
    out: Out = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Destroy a key that nothing is sealed under any more."""
    output = Output(as_json=as_json)
    keys = _keys(data_dir)

    async def run() -> tuple[str, list[str]]:
        async with keys.alone():
            return await keys.retire(kid, out=out)

    with told_apart():
        retired, left = asyncio.run(run())
    output.document({"retired": retired, "next": left})
    if not output.as_json:
        output.line("is destroyed here", lead=retired)
        for step in left:
            output.line(f"  {step}")
    if out is not None:
        raise typer.Exit(ExitCode.YOURS)
