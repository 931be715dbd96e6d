"""``aura connections``: what is connected, what machines hold of it, what happens to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from aura_control.cli.connect import account, disconnect, find, print_receipt
from aura_control.cli.output import ExitCode, Output
from aura_control.cli.where import DataDir, remote

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The accounts that are connected.")
app.command()(disconnect)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

_WHAT_TO_DO = {
    "connected": "Nothing.",
    "expiring": "Nothing, as long as the access can be renewed; else: aura connect {provider}",
    "reauth_required": "Sign in again: aura connect {provider}",
    "uncertain": "Wait: Aura asks the provider again; if it stays so: aura connect {provider}",
    "disconnected": "Connect it again if you need it: aura connect {provider}",
}


@app.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the connections and their states."""
    output = Output(as_json=as_json)
    answer = remote(data_dir, output).call("GET", "/api/integrations")
    output.document(answer)
    output.table(
        ["PROVIDER", "STATE", "ACCOUNT", "EXPIRES", "REASON"],
        [
            [
                row["provider"],
                row["state"],
                account(row),
                str(row.get("token_expiry") or "never"),
                str(row.get("reason") or ""),
            ]
            for row in answer["integrations"]
        ],
    )


@app.command()
def show(provider: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show one connection: its state, and what each machine holds of it."""
    output = Output(as_json=as_json)
    connection = find(remote(data_dir, output), provider)
    if connection is None:
        raise output.fail(
            {
                "title": f"You have no connection to {provider}.",
                "hint": f"Make one: aura connect {provider}",
            },
            ExitCode.FAILED,
        )
    output.document(connection)
    if as_json:
        return
    now = datetime.now(UTC)
    for name, words in _facts(connection, now):
        output.line(words, lead=f"{name:<9}")
    if connection["receipt"] is not None:
        output.line("")
        output.line("", lead="RECEIPT")
        print_receipt(output, connection["receipt"])
    elif connection["machines"]:
        output.line("")
        _print_machines(output, connection["machines"], now)


@app.command()
def watch(data_dir: DataDir = None) -> None:
    """Follow what happens to the connections, from now on, until interrupted."""
    output = Output(as_json=False)
    with remote(data_dir, output).events("/api/events") as events:
        output.line("following; interrupt to end")
        for _, kind, data in events:
            if kind == "gap":
                output.line("some events are no longer kept: see 'aura connections list'")
            elif kind.startswith("connection."):
                output.line(_event(kind.removeprefix("connection."), data))


def _facts(connection: dict[str, Any], now: datetime) -> list[tuple[str, str]]:
    provider, state = connection["provider"], connection["state"]
    facts = [("provider", provider), ("state", state)]
    if connection["reason"]:
        facts.append(("reason", connection["reason"]))
    facts.append(("to do", _WHAT_TO_DO.get(state, "").format(provider=provider)))
    if account(connection):
        facts.append(("account", account(connection)))
    if state == "disconnected":
        return facts
    scopes = connection["scopes"] or ["none are named"]
    facts += [("" if number else "scopes", scope) for number, scope in enumerate(scopes)]
    facts.append(("expires", _when(connection["token_expiry"], now) or "never"))
    if connection["renews_at"]:
        facts.append(("renewed", _when(connection["renews_at"], now)))
    facts.append(("revision", str(connection["revision"])))
    return facts


def _print_machines(output: Output, machines: list[dict[str, Any]], now: datetime) -> None:
    """One line for each machine. Ids are shortened as those of commits are; revisions are not: two
    of them that differ in the end would look alike."""
    output.table(
        ["MACHINE", "AGENT", "STATE", "SHOULD HOLD", "ACKNOWLEDGED", "WHEN"],
        [
            [
                one["instance_id"][:8],
                one["agent_id"][:8],
                one["state"],
                str(one["desired_revision"]),
                str(one["acked_revision"] or "-"),
                _ago(one["acked_at"], now),
            ]
            for one in machines
        ],
    )
    for one in machines:
        if one["last_error"]:
            tries = f"{one['attempts']} tries" if one["attempts"] != 1 else "1 try"
            output.line(f"  {one['instance_id'][:8]}: {one['last_error']} ({tries})")


def _event(kind: str, data: dict[str, Any]) -> str:
    words = [data.get("at", "")[11:19], str(data.get("provider")), kind]
    if kind == "wiped":
        words.append(f"from machine {str(data.get('instance_id'))[:8]}")
    if data.get("reason"):
        words.append(f"({data['reason']})")
    return " ".join(words)


def _when(text: str | None, now: datetime) -> str:
    """A time in UTC, and how far it is."""
    if text is None:
        return ""
    at = datetime.fromisoformat(text)
    seconds = (at - now).total_seconds()
    far = f"in {_span(seconds)}" if seconds >= 0 else f"{_span(-seconds)} ago"
    return f"{at:%Y-%m-%d %H:%M} UTC ({far})"


def _ago(text: str | None, now: datetime) -> str:
    if text is None:
        return "-"
    return f"{_span(max(0.0, (now - datetime.fromisoformat(text)).total_seconds()))} ago"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
