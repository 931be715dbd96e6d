"""Serving a twin: in a thread for tests, or as a coroutine for a command."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from aura_core.manifest import Manifest
from aura_core.testing.twin import Twin, create_twin

__all__ = ["running_twin", "serve_twin"]

_STOP_SECONDS = 10


def _listen(host: str, port: int) -> socket.socket:
    """Listening from now on: a call that comes before the server runs waits instead of failing."""
    listening = socket.create_server((host, port), backlog=128)
    listening.setblocking(False)
    return listening


def _origin(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{host}:{port}"


def _server(app: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=3,
        )
    )


@contextmanager
def running_twin(manifest: Manifest, *, port: int = 0, **options: Any) -> Iterator[Twin]:
    """A twin on 127.0.0.1 in a thread of its own; ``twin.origin`` says where.

    ``options`` are those of :func:`create_twin`. It is stopped, and its thread has ended, when
    the block is left.
    """
    listening = _listen("127.0.0.1", port)
    app = create_twin(manifest, origin=_origin(listening), **options)
    server = _server(app)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name=f"twin-{manifest.id}", daemon=True
    )
    thread.start()
    try:
        twin: Twin = app.state.twin
        yield twin
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        listening.close()


async def serve_twin(
    manifest: Manifest,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ready: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM, or until cancelled. ``ready`` is told the twin's origin as
    soon as it listens. ``options`` are those of :func:`create_twin`."""
    listening = _listen(host, port)
    app = create_twin(manifest, origin=_origin(listening), **options)
    if ready is not None:
        ready(app.state.twin.origin)
    try:
        await _server(app).serve(sockets=[listening])
    finally:
        listening.close()
