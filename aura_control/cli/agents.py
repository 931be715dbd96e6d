"""``aura agents``: deploy agents and follow what happens to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aura_control.cli.boundaries import boundaries, described
from aura_control.cli.files import read_json_file
from aura_control.cli.output import ExitCode, Output
from aura_control.cli.remote import Remote
from aura_control.cli.where import DataDir, remote

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Agents and the machines that run them.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
WORKING = {"running", "degraded"}
ENDED = WORKING | {"failed", "destroyed"}


@app.command()
def create(
    name: str,
    scope: Annotated[
        list[str] | None, typer.Option(help="What the agent may do, e.g. email:read.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="How often a scope may be used, e.g. email:send=10/hour."),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(help="Only these hosts may be called: api.example.com or *.example.com."),
    ] = None,
    daily_tokens: Annotated[
        int | None, typer.Option(help="Tokens of language models in any 24 hours.")
    ] = None,
    integration: Annotated[
        list[str] | None, typer.Option(help="Only these; all connections when left out.")
    ] = None,
    compute: str | None = None,
    runtime: str | None = None,
    config: Annotated[Path | None, typer.Option(help="JSON file for the runtime.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow it until it runs.")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Deploy an agent. Exits 1 if it does not come to run."""
    output = Output(as_json=as_json)
    api = remote(data_dir, output)
    permissions = boundaries(scope, limit, domain, daily_tokens)
    body: dict[str, Any] = {"name": name, "permissions": permissions}
    if integration:
        body["integrations"] = integration
    if compute:
        body["compute"] = compute
    if runtime:
        body["runtime"] = runtime
    if config:
        body["config"] = read_json_file(config)
    agent = api.call("POST", "/api/agents", json=body)
    if wait:
        _follow(api, output, agent["id"])
        agent = api.call("GET", f"/api/agents/{agent['id']}")
    output.document(agent)
    if not as_json:
        output.line(f"agent {agent['id']} is {agent['state']}")
        if agent["state_reason"]:
            output.line(f"  {agent['state_reason']}")
    if wait and agent["state"] not in WORKING:
        raise typer.Exit(ExitCode.FAILED)


@app.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List agents."""
    output = Output(as_json=as_json)
    answer = remote(data_dir, output).call("GET", "/api/agents")
    output.document(answer)
    output.table(
        ["ID", "NAME", "STATE", "COMPUTE", "REASON"],
        [
            [a["id"], a["name"], a["state"], a["compute"], str(a.get("state_reason") or "")]
            for a in answer["agents"]
        ],
    )


@app.command()
def show(agent_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show one agent with its machine's health and what has been delivered to it."""
    output = Output(as_json=as_json)
    api = remote(data_dir, output)
    agent = api.call("GET", f"/api/agents/{agent_id}")
    health = api.call("GET", f"/api/agents/{agent_id}/health")
    output.document({"agent": agent, "health": health})
    if as_json:
        return
    output.line(f"({agent['id']}) is {agent['state']}", lead=agent["name"])
    for line in described(agent["permissions"]):
        output.line(f"  {line}")
    output.table(
        ["SUBJECT", "OP", "DESIRED", "ACKNOWLEDGED"],
        [
            [d["subject"], d["op"], str(d["desired_revision"]), str(d.get("acked_revision") or "-")]
            for d in agent.get("deliveries", [])
        ],
    )
    output.line(json.dumps(health.get("health"), indent=2))


@app.command()
def watch(agent_id: str, data_dir: DataDir = None) -> None:
    """Follow an agent's events until interrupted or the agent is destroyed."""
    output = Output(as_json=False)
    _follow(remote(data_dir, output), output, agent_id, until={"destroyed"})


@app.command()
def destroy(
    agent_id: str,
    wait: Annotated[bool, typer.Option(help="Follow it until nothing is left.")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End an agent and free everything it used."""
    output = Output(as_json=as_json)
    api = remote(data_dir, output)
    agent = api.call("DELETE", f"/api/agents/{agent_id}")
    if wait and agent["state"] != "destroyed":
        _follow(api, output, agent_id, until={"destroyed"}, since="destroying")
    output.document(agent)
    if not as_json:
        output.line(f"agent {agent_id} is gone" if wait else f"agent {agent_id} is going")


def _follow(
    api: Remote,
    output: Output,
    agent_id: str,
    *,
    until: set[str] | None = None,
    since: str | None = None,
) -> None:
    """Print events as they come, from the state ``since`` on, up to one of the states ``until``."""
    ends, shown = until or ENDED, since is None
    with api.events(f"/api/agents/{agent_id}/events", last_event_id="0") as events:
        for _, kind, data in events:
            shown = shown or data.get("state") == since
            if shown:
                output.line(f"  {data.get('at', '')[11:19]} {_describe(kind, data)}")
            if data.get("state") in ends:
                return


def _describe(kind: str, data: dict[str, Any]) -> str:
    words = [kind, data.get("subject"), data.get("reason")]
    return " ".join(str(word) for word in words if word)
