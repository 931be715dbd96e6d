"""The fake on a real socket, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from tests.fakes.hetzner.app import create_app
from tests.fakes.hetzner.project import Project

__all__ = ["serving"]


@contextmanager
def serving(project: Project) -> Iterator[str]:
    """Where the API is: ``http://127.0.0.1:<port>/v1``. The thread has ended when the block has."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    listening.setblocking(False)
    config = uvicorn.Config(
        create_app(project),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="fake-hetzner", daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
