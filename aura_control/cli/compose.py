"""``aura compose``: see what a machine would boot from, without making one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from aura_control.cli.files import read_json_file
from aura_control.cli.output import Output
from aura_control.cli.registry import open_registry
from aura_control.settings import load_settings
from aura_core.encoding import b64url
from aura_core.errors import ConfigurationError, InvalidInput

if TYPE_CHECKING:
    from cloudinit_templates import Plan

__all__ = ["compose"]


def compose(
    providers: Annotated[list[str] | None, typer.Argument(help="Integrations to include.")] = None,
    runtime: Annotated[str | None, typer.Option(help="What runs as the agent.")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file for the runtime.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the user-data here (- for standard output).")
    ] = None,
    readable: Annotated[
        bool, typer.Option("--readable", help="The cloud-config itself, not its encoding.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compose the user-data of an agent with these integrations, with keys made up for it.

    It cannot join a control plane; it shows what is composed and how large it is.
    """
    from cloudinit_templates import compose as compose_plan

    output = Output(as_json=as_json)
    composed = compose_plan(_plan(providers or [], runtime, config))
    text = json.dumps(composed.cloud_config, indent=2) if readable else composed.user_data
    if out == Path("-"):
        if as_json:
            raise ConfigurationError(
                "Standard output cannot hold both the user-data and a JSON document.",
                hint="Name a file with --out.",
            )
        typer.echo(text)
        return
    if out is not None:
        try:
            out.write_text(text)
        except OSError as error:
            raise ConfigurationError(f"{out} cannot be written: {error.strerror}.") from None
    output.document(
        {
            "size": composed.size,
            "limit": 32768,
            "skills": list(composed.skills_included),
            "left_to_daemon": list(composed.left_to_daemon),
            "out": str(out) if out else None,
        }
    )
    if not as_json:
        output.line(f"{composed.size} of 32768 bytes")
        output.line(f"  skills: {', '.join(composed.skills_included) or 'none'}")
        output.line(f"  left to the daemon: {', '.join(composed.left_to_daemon) or 'none'}")


def _plan(providers: list[str], runtime: str | None, config: Path | None) -> Plan:
    from aura_core.runtime import AgentSpec
    from aura_core.wire import ControlKeys
    from cloudinit_templates import Plan

    settings = load_settings()
    registry = open_registry(settings)
    skills = []
    for provider in providers:
        integration = registry.open(provider)
        skill = integration.adapter.get_vm_skill_manifest(
            integration.manifest, integration.tools, integration.tools_source
        )
        if skill is not None:
            skills.append(skill)
    name = runtime or settings.default_runtime
    known = registry.runtimes()
    if name not in known:
        raise InvalidInput(
            f"There is no runtime {name!r}.", hint=f"There are: {', '.join(sorted(known))}."
        )
    keys = ControlKeys.generate()
    spec = AgentSpec(
        agent_id="example", name="Example", config=read_json_file(config) if config else {}
    )
    return Plan(
        instance_id="example",
        agent_id="example",
        hostname="example",
        control_url=settings.public_url,
        control_public_keys={keys.signer_kid: b64url(keys.sig_public)},
        join_token=SecretStr("not-a-join-token-only-an-example"),
        runtime=known[name].plan(spec),
        skills=tuple(skills),
        site=":80",
    )
