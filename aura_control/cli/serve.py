"""``aura up`` and ``aura serve``: run the control plane until asked to stop."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from aura_control.cli.database import told_apart
from aura_control.cli.output import Output
from aura_control.cli.registry import open_vault
from aura_control.cli.remote import Session, read_session, write_session
from aura_control.settings import Settings, load_settings
from aura_core.errors import ConfigurationError

if TYPE_CHECKING:
    from aura_control.bootstrap import Owner

__all__ = ["serve", "up"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document when it is ready.")]


def up(
    data_dir: Annotated[Path | None, typer.Option(help="Keys, database, machines.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.")] = None,
    email: Annotated[str, typer.Option(help="The first user's address.")] = "owner@localhost",
    as_json: Json = False,
) -> None:
    """Run everything on this machine: makes keys, database and a first user where needed."""
    from aura_control.cli.server import run

    output = Output(as_json=as_json)
    listener, settings = _settings(data_dir, port)
    with listener:
        with told_apart():
            owner = _prepared(output, settings, email)
        run(settings, listener, ready=lambda: _announce(output, settings, owner))


def _prepared(output: Output, settings: Settings, email: str) -> Owner:
    from aura_control.bootstrap import ensure_keys, ensure_owner

    asyncio.run(ensure_keys(settings))
    # The token of this data directory, whatever AURA_TOKEN says of another control plane.
    known = read_session(settings.data_dir, environment={})
    token = None if known is None else SecretStr(known.token)
    with output.console.status("preparing the database"):
        owner = asyncio.run(
            ensure_owner(settings, open_vault(settings), email=email, known_token=token)
        )
    write_session(settings.data_dir, Session(url=settings.public_url, token=owner.token))
    return owner


def serve(
    data_dir: Annotated[Path | None, typer.Option(help="Keys, database, machines.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Run the control plane on keys and a database that exist already."""
    from aura_control.cli.server import run

    output = Output(as_json=as_json)
    listener, settings = _settings(data_dir, port)

    def ready() -> None:
        output.document({"url": settings.public_url, "pid": os.getpid()})
        if not as_json:
            output.line(f"at {settings.public_url}", lead="Aura is up", style="bold green")

    with listener:
        run(settings, listener, ready=ready)


def _settings(data_dir: Path | None, port: int | None) -> tuple[socket.socket, Settings]:
    """Take the port first: with port 0 the public address is known only then."""
    given = {} if data_dir is None else {"data_dir": data_dir}
    settings = load_settings(**given, **({} if port is None else {"port": port}))
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"{settings.host}:{settings.port} cannot be used: {error.strerror}.",
            hint="Choose another port with --port or AURA_PORT.",
        ) from None
    if "public_url" not in settings.model_fields_set:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        own = f"http://{host}:{listener.getsockname()[1]}"
        settings = load_settings(**given, public_url=own)
    return listener, settings


def _announce(output: Output, settings: Settings, owner: Owner) -> None:
    output.document(
        {"url": settings.public_url, "token": owner.token, "email": owner.email, "pid": os.getpid()}
    )
    if output.as_json:
        return
    output.line(f"at {settings.public_url}", lead="Aura is up", style="bold green")
    output.line(f"  API token of {owner.email}: {owner.token}")
    output.line(f"  data: {settings.data_dir}")
    called = Path(sys.argv[0])
    own = called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called.name
    output.line(f"  next, in another terminal: {own} plugins list, {own} connect PROVIDER")
    output.line("  ctrl-c stops it; agents' machines go on")
