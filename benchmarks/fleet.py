"""Many machines in one process (``python -m benchmarks.fleet DIRECTORY``).

Each is the daemon's own way in: its HTTP application, its inbox with every check, its store with a
durable write, on an address of its own (127.x.y.z). What is left out is what receives nothing: the
broker, the runtime, the loop that asks the control plane.

``DIRECTORY/fleet.json`` names the machines and the keys that they believe; once they listen,
``joined.json`` beside it says each one's address and public keys, and READY=1 goes to
``NOTIFY_SOCKET`` (sd_notify(3)).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from aura_core.encoding import b64url
from aura_core.wire import VmKeys, parse_public_keys
from aura_vmd.holdings import Holdings
from aura_vmd.http import http_app
from aura_vmd.inbox import Identity, Inbox
from aura_vmd.skills import Skills
from aura_vmd.store import Store

__all__ = ["main"]

_BACKLOG = 128


def main() -> None:
    """Be all these machines until SIGTERM."""
    asyncio.run(_serve(Path(sys.argv[1])))


async def _serve(directory: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    plan = json.loads((directory / "fleet.json").read_text())
    believed = parse_public_keys(plan["control_public_keys"])
    joined: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        for number, instance_id in enumerate(plan["instances"]):
            keys = VmKeys.generate()
            app = _daemon(directory / instance_id, instance_id, keys, believed, plan["token"])
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            host = f"127.77.{number // 250}.{number % 250 + 1}"
            await web.TCPSite(runner, host, 0, backlog=_BACKLOG).start()
            joined[instance_id] = {
                "push_url": "http://{}:{}".format(*runner.addresses[0][:2]),
                "enc_public": b64url(keys.enc_public),
                "sig_public": b64url(keys.sig_public),
                "recipient_kid": keys.recipient_kid,
            }
        (directory / "joined.json").write_text(json.dumps(joined))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1\nSTATUS=fleet", os.environ["NOTIFY_SOCKET"])
        await stop.wait()


def _daemon(
    directory: Path, instance_id: str, keys: VmKeys, believed: Mapping[str, bytes], token: str
) -> web.Application:
    store = Store(directory=directory / "messages", damaged=directory / "damaged")
    inbox = Inbox(
        identity=Identity(instance_id=instance_id, keys=keys, control_public_keys=believed),
        store=store,
        holdings=Holdings(),
        skills=Skills(directory=directory / "skills"),
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    inbox.load()
    inbox.admit(SecretStr(token))

    async def report() -> Mapping[str, Any]:
        return {}

    return http_app(inbox=inbox, status=lambda: "ok", report=report)


if __name__ == "__main__":
    main()
