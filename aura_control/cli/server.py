"""The control plane as this process: served until it is asked to stop.

A module of its own because it imports everything that serving takes, which other commands would
wait for in vain.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import typer
import uvicorn
from starlette.applications import Starlette

from aura_control.app import create_app
from aura_control.cli.output import ExitCode
from aura_control.cli.registry import open_registry
from aura_control.logs import configure_logs
from aura_control.settings import Settings

__all__ = ["run"]

_Ready = Callable[[], None]


def run(settings: Settings, listener: socket.socket, ready: _Ready) -> None:
    """Serve on ``listener``; ``ready`` is called once it answers. Exits 1 if it cannot start."""
    configure_logs(settings.log_level)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # we say ourselves when it is up
    app = create_app(settings, open_registry(settings))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=20,
        server_header=False,
        proxy_headers=False,
    )
    server = _Server(config, app, ready)
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(ExitCode.FAILED)


class _Server(uvicorn.Server):
    """Tells when it answers: the address is printed only once it is true."""

    def __init__(self, config: uvicorn.Config, app: Starlette, ready: _Ready) -> None:
        super().__init__(config)
        self._app = app
        self._ready = ready

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The server waits for its connections before it ends the application, and a stream of
        # events never ends by itself.
        if self.started:
            self._app.state.services.events.close()
        await super().shutdown(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()
