"""``aura connect`` and ``aura connections disconnect``: link an account, and end it."""

from __future__ import annotations

import time
import webbrowser
from typing import Annotated, Any

import typer

from aura_control.cli.output import ExitCode, Output
from aura_control.cli.remote import Remote
from aura_control.cli.where import DataDir, remote

__all__ = ["account", "connect", "disconnect", "find", "print_receipt"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def connect(
    provider: Annotated[str, typer.Argument(help="Id of the integration.")],
    agent: Annotated[str | None, typer.Option(help="Enable it on this agent.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="name=value, for providers with keys; or be asked.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
    wait: Annotated[int, typer.Option(help="Seconds to wait for the browser.")] = 300,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Connect an account: by browser where the provider uses OAuth, else by its key."""
    output = Output(as_json=as_json)
    api = remote(data_dir, output)
    entry = _provider(api, output, provider)
    if not entry["auth"]:
        raise output.fail(
            {"title": f"{provider} cannot be connected: {entry['reason']}"}, ExitCode.FAILED
        )
    if entry["auth"][0]["strategy"] == "oauth2":
        connection = _by_browser(api, output, provider, agent, browser, wait)
    else:
        connection = _by_fields(api, output, provider, agent, entry["auth"][0], field or [])
    output.document(connection)
    if not as_json:
        output.line(f"{provider}: {account(connection)}", lead="connected", style="green")


def _provider(api: Remote, output: Output, provider: str) -> dict[str, Any]:
    for entry in api.call("GET", "/api/providers")["providers"]:
        if entry["id"] == provider:
            return dict(entry)
    raise output.fail(
        {
            "title": f"There is no integration {provider!r}.",
            "hint": "See 'aura plugins list' for those there are.",
        },
        ExitCode.FAILED,
    )


def _by_browser(
    api: Remote, output: Output, provider: str, agent: str | None, browser: bool, wait: int
) -> Any:
    before = (find(api, provider) or {}).get("connected_at")
    body = {} if agent is None else {"agent_id": agent}
    link = api.call("POST", f"/api/integrations/{provider}/link", json=body)
    output.line("Open this address in your browser, and continue there; it works once:")
    output.line(f"  {link['url']}")
    if browser:
        webbrowser.open(link["url"])
    deadline = time.monotonic() + wait
    with output.console.status("waiting for the browser"):
        while time.monotonic() < deadline:
            now = find(api, provider)
            # Whatever its state has become since: access that is short and cannot be renewed is
            # "expiring" from the first moment on.
            if now and now["connected_at"] not in (None, before):
                return now
            time.sleep(1.0)  # a person is clicking; nothing else tells when they are done
    raise output.fail(
        {"title": f"{provider} was not connected within {wait} seconds."}, ExitCode.FAILED
    )


def _by_fields(
    api: Remote,
    output: Output,
    provider: str,
    agent: str | None,
    auth: dict[str, Any],
    given: list[str],
) -> Any:
    values = dict(item.partition("=")[::2] for item in given)
    for descriptor in auth.get("fields", []):
        if descriptor["name"] not in values and descriptor.get("required", True):
            values[descriptor["name"]] = typer.prompt(
                descriptor["label"], hide_input=descriptor.get("secret", True), err=True
            )
    body = {"fields": values} if agent is None else {"fields": values, "agent_id": agent}
    with output.console.status(f"asking {provider} whether it accepts this"):
        return api.call("POST", f"/api/integrations/{provider}", json=body)


def find(api: Remote, provider: str) -> dict[str, Any] | None:
    """The user's connection to the provider, as the control plane answers it."""
    for connection in api.call("GET", "/api/integrations")["integrations"]:
        if connection["provider"] == provider:
            return dict(connection)
    return None


def account(connection: dict[str, Any]) -> str:
    """What a person knows the account by; empty where the provider does not say."""
    metadata = connection.get("metadata") or {}
    return str(metadata.get("email") or metadata.get("name") or connection.get("account_id") or "")


def disconnect(provider: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Revoke at the provider, wipe the machines, and print the receipt."""
    output = Output(as_json=as_json)
    api = remote(data_dir, output)
    with output.console.status(f"revoking the access at {provider}"):
        receipt = api.call("DELETE", f"/api/integrations/{provider}")
    output.document(receipt)
    if not as_json:
        print_receipt(output, receipt)


def print_receipt(output: Output, receipt: dict[str, Any]) -> None:
    """A disconnect's receipt for people."""
    for line in receipt.get("tokens", []):
        output.line(f"  {line['token']}: {line['outcome']} {line.get('detail') or ''}".rstrip())
    for line in receipt.get("machines", []):
        words = [line["state"], line.get("at") or "", line.get("detail") or ""]
        output.line(f"  machine {line['instance_id'][:8]}: {' '.join(filter(None, words))}")
    if not receipt.get("complete", True):
        output.line("  It goes on: 'aura connections show' has the receipt as it grows.")
