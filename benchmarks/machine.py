"""A machine to measure: the real daemon as a process, and a control plane that it has joined.

The control plane's side is the wire protocol alone (:mod:`aura_core.wire`) on loopback: it answers
the join, and has nothing to deliver when it is asked.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from pydantic import BaseModel, SecretStr

from aura_core.credentials import BrokerBinding, CredentialPayload
from aura_core.encoding import b64url
from aura_core.manifest import BEARER
from aura_core.wire import (
    MAX_MESSAGE_BYTES,
    ControlKeys,
    JoinAnswer,
    JoinRequest,
    PushHeader,
    next_revision,
    seal_join_answer,
    seal_push,
    verify_join,
)
from benchmarks.processes import Running, identity, running

__all__ = ["CONNECTION", "GATEWAY_TOKEN", "Machine", "credential", "machine"]

CONNECTION = "connection-1"
GATEWAY_TOKEN = "gateway-token-of-a-benchmark-0123456789"

_INSTANCE = "instance-1"


class Machine:
    """A machine's directory and its control plane; :meth:`started` runs the daemon on it."""

    def __init__(self, *, directory: Path, control_url: str, keys: ControlKeys) -> None:
        self.directory = directory
        self.keys = keys
        self.joined: JoinRequest | None = None
        self.asked = asyncio.Event()
        """Set by the daemon's first pull: from then on it takes pushes."""
        self._revision: int | None = None
        self._install(control_url)

    @property
    def broker_socket(self) -> Path:
        return self.directory / "run/aura/broker.sock"

    @property
    def origin(self) -> str:
        """Where the running daemon's HTTP listens."""
        listen = json.loads((self.directory / "run/aura/listen.json").read_bytes())
        return f"http://{listen['host']}:{listen['port']}"

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Running]:
        """The daemon, listening. The benchmark plays the agent, hence is the agent's user."""
        self.asked.clear()
        uid, gid = identity()
        environment = {
            "AURA_ROOT": str(self.directory),
            "AURA_VMD_LISTEN": "127.0.0.1:0",
            "AURA_AGENT_USER": f"{uid}:{gid}",
        }
        async with running(
            "-m", "aura_vmd.app", "run", environment=environment, directory=self.directory
        ) as process:
            yield process

    def seal(self, subject: str, content: BaseModel) -> bytes:
        """The next message for this machine."""
        if self.joined is None:
            raise RuntimeError("The machine has not joined yet.")
        now = time.time_ns() // 1_000_000
        self._revision = next_revision(self._revision, now_ms=now)
        header = PushHeader(
            instance_id=_INSTANCE,
            recipient_kid=self.joined.recipient_kid,
            connection_id=subject,
            op="put",
            revision=self._revision,
            issued_at=now,
            signer_kid=self.keys.signer_kid,
        )
        return seal_push(
            header,
            content.model_dump_json().encode(),
            recipient_public=self.joined.enc_public,
            signer=self.keys,
        )

    def _install(self, control_url: str) -> None:
        for folder in ("etc/aura", "var/lib/agent", "run"):
            (self.directory / folder).mkdir(parents=True)
        settings = {
            "instance_id": _INSTANCE,
            "control_url": control_url,
            "control_public_keys": {self.keys.signer_kid: b64url(self.keys.sig_public)},
        }
        (self.directory / "etc/aura/vmd.json").write_text(json.dumps(settings))
        token = self.directory / "etc/aura/join-token"
        token.write_text("join-token-of-a-benchmark-0123456789")


@asynccontextmanager
async def machine() -> AsyncIterator[Machine]:
    """A machine in a directory of its own, which is removed afterwards."""
    keys = ControlKeys.generate()
    # A short path: a unix socket's has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="aura-"))
    try:
        control = _Control(keys)
        runner = web.AppRunner(control.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            host, port = runner.addresses[0][:2]
            control.machine = Machine(
                directory=directory, control_url=f"http://{host}:{port}", keys=keys
            )
            yield control.machine
        finally:
            await runner.cleanup()
    finally:
        shutil.rmtree(directory)


class _Control:
    """The control plane's side of ``/vm/v1``."""

    def __init__(self, keys: ControlKeys) -> None:
        self._keys = keys
        self.machine: Machine | None = None

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES)
        app.router.add_post("/vm/v1/join", self._join)
        app.router.add_post("/vm/v1/heartbeat", self._heartbeat)
        app.router.add_post("/vm/v1/pull", self._pull)
        return app

    async def _join(self, request: web.Request) -> web.Response:
        assert self.machine is not None
        self.machine.joined = joined = verify_join(await request.read())
        answer = JoinAnswer(gateway_token=GATEWAY_TOKEN, heartbeat_seconds=3600)
        return web.Response(body=seal_join_answer(answer, request=joined, signer=self._keys))

    async def _heartbeat(self, _: web.Request) -> web.Response:
        return web.json_response({"lacking": [], "heartbeat_seconds": 3600})

    async def _pull(self, _: web.Request) -> web.Response:
        assert self.machine is not None
        self.machine.asked.set()
        return web.json_response({"messages": [], "more": False})


def credential(base_url: str, *, fields: Mapping[str, str] | None = None) -> CredentialPayload:
    """A credential for the provider at ``base_url``, with a token as long as Google's are."""
    binding = BrokerBinding(
        provider="bare",
        base_url=base_url,
        hosts=(base_url.partition("://")[2],),
        placements=(BEARER,),
    )
    token = fields or {"access_token": "ya29." + "0123456789abcdef" * 13}
    return CredentialPayload(
        connection_id=CONNECTION,
        provider="bare",
        connection_revision=1,
        fields={name: SecretStr(value) for name, value in token.items()},
        binding=binding,
    )
