"""The control plane as this process: served until it is asked to stop.

A module of its own because it imports everything that serving takes, which other commands would
wait for in vain.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from aura_control.app import create_app
from aura_control.cli.registry import open_registry
from aura_control.logs import configure_logs
from aura_control.settings import Settings
from aura_core.errors import AuraError

__all__ = ["run"]

_Ready = Callable[[], None]


def run(settings: Settings, listener: socket.socket, ready: _Ready) -> None:
    """Serve on ``listener``; ``ready`` is called once it answers. Raises what kept it from
    starting."""
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
    with suppress(SystemExit):  # is how it ends when the application does not start
        server.run(sockets=[listener])
    if not server.started:
        failure = getattr(app.state, "failure", None)
        if isinstance(failure, AuraError):
            raise failure
        raise AuraError("The control plane could not start.", hint="The log says why.")


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
