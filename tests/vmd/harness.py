"""A control plane, a provider and a machine: real servers on loopback, in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from aura_core.credentials import BrokerBinding, CredentialPayload
from aura_core.encoding import b64url
from aura_core.manifest import BEARER, Placement, Rule
from aura_core.permissions import AgentPermissions
from aura_core.skills import VmSkillManifest, VmWriteFile, pack_skills
from aura_core.wire import (
    ControlKeys,
    JoinAnswer,
    JoinRequest,
    Op,
    PushHeader,
    VmKeys,
    parse_push,
    seal_join_answer,
    seal_push,
    verify_ack,
    verify_join,
    verify_request,
)
from aura_vmd.app import create_app
from aura_vmd.broker import BrokerLimits
from aura_vmd.settings import Settings, load_settings

INSTANCE = "instance-1"
JOIN_TOKEN = "join-token-of-this-machine"
GATEWAY_TOKEN = "gateway-token-0123456789abcdef"
TOKEN = "ya29.an-access-token/with+odd=characters"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def until(condition: Callable[[], object], *, changed: asyncio.Event) -> None:
    """Wait for a condition, looked at whenever ``changed`` is set."""
    async with asyncio.timeout(20):
        while not condition():
            changed.clear()
            await changed.wait()


class Control:
    """A control plane that speaks ``aura_core.wire``: it holds the messages that it wants kept."""

    def __init__(self) -> None:
        self.keys = ControlKeys.generate()
        self.url = ""
        self.machine: JoinRequest | None = None
        self.desired: dict[str, bytes] = {}
        self.acked: dict[str, tuple[int, str]] = {}
        self.heartbeats: list[dict[str, Any]] = []
        self.joins = 0
        self.refuse_join: int | None = None
        self.down = False
        self.acks_to_lose = 0
        self.changed = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/vm/v1/join", self._join)
        app.router.add_post("/vm/v1/heartbeat", self._signed(self._heartbeat))
        app.router.add_post("/vm/v1/pull", self._signed(self._pull))
        app.router.add_post("/vm/v1/ack", self._signed(self._ack))
        return app

    def know(self, keys: VmKeys) -> None:
        """Know a machine without it having joined."""
        self.machine = JoinRequest(
            instance_id=INSTANCE,
            join_token=JOIN_TOKEN,
            enc_public=keys.enc_public,
            sig_public=keys.sig_public,
            issued_at=now_ms(),
        )

    def seal(
        self,
        subject: str,
        plaintext: bytes,
        *,
        revision: int,
        op: Op = "put",
        recipient: bytes | None = None,
        instance: str = INSTANCE,
        signer: ControlKeys | None = None,
    ) -> bytes:
        """A message for the machine, or as the arguments have it, for another or by another."""
        assert self.machine is not None
        signer = signer or self.keys
        recipient = recipient or self.machine.enc_public
        header = PushHeader(
            instance_id=instance,
            recipient_kid=JoinRequest(
                instance_id=INSTANCE,
                join_token="-",
                enc_public=recipient,
                sig_public=bytes(32),
                issued_at=0,
            ).recipient_kid,
            connection_id=subject,
            op=op,
            revision=revision,
            issued_at=now_ms(),
            signer_kid=signer.signer_kid,
        )
        return seal_push(header, plaintext, recipient_public=recipient, signer=signer)

    def want(self, subject: str, plaintext: bytes, *, revision: int, op: Op = "put") -> bytes:
        """Want a message kept by the machine; it is pulled with the next heartbeat."""
        self.desired[subject] = self.seal(subject, plaintext, revision=revision, op=op)
        return self.desired[subject]

    async def _join(self, request: web.Request) -> web.StreamResponse:
        self.joins += 1
        self.changed.set()
        if self.refuse_join is not None:
            return web.json_response({"detail": "No such instance."}, status=self.refuse_join)
        join = verify_join(await request.read())
        if join.join_token != JOIN_TOKEN:
            return web.json_response({"detail": "The token is not good."}, status=403)
        assert self.machine is None or self.machine.fingerprint == join.fingerprint
        self.machine = join
        answer = JoinAnswer(gateway_token=GATEWAY_TOKEN, heartbeat_seconds=1)
        return web.Response(body=seal_join_answer(answer, request=join, signer=self.keys))

    def _signed(self, handler: Callable[[dict[str, Any]], dict[str, Any]]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if self.down:
                return web.Response(status=503)
            raw = await request.read()
            assert self.machine is not None
            sender = verify_request(
                request.headers, "POST", request.path, raw, self.machine.sig_public, now_ms()
            )
            assert sender == INSTANCE
            answer = handler(json.loads(raw))
            self.changed.set()
            return web.json_response(answer)

        return handle

    def _lacking(self, revisions: Mapping[str, int]) -> list[str]:
        return [
            subject
            for subject, message in self.desired.items()
            if revisions.get(subject, 0) < parse_push(message).header.revision
        ]

    def _heartbeat(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["issued_at"] > max((h["issued_at"] for h in self.heartbeats), default=0)
        self.heartbeats.append(body)
        return {"lacking": self._lacking(body["revisions"]), "heartbeat_seconds": 1}

    def _pull(self, body: dict[str, Any]) -> dict[str, Any]:
        lacking = self._lacking(body["revisions"])
        messages = [json.loads(self.desired[subject]) for subject in lacking[:2]]
        return {"messages": messages, "more": len(lacking) > 2}

    def _ack(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.acks_to_lose:
            self.acks_to_lose -= 1
            raise web.HTTPServiceUnavailable
        assert self.machine is not None
        acks = [verify_ack(document, self.machine.sig_public) for document in body["acks"]]
        for ack in acks:
            assert ack.instance_id == INSTANCE
            self.acked[ack.connection_id] = (ack.revision, ack.digest)
        return {"acked": [ack.connection_id for ack in acks]}


@dataclass
class Provider:
    """A provider that records what reaches it and answers as the test says."""

    url: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    answer: Handler | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": {k.lower(): v for k, v in request.headers.items()},
                "body": await request.read(),
            }
        )
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"messages": [1, 2, 3]}, headers={"Set-Cookie": "session=1"})

    @property
    def netloc(self) -> str:
        return self.url.removeprefix("http://")


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serve on a loopback port; the base URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


RULES = (
    Rule(methods=("GET", "HEAD"), path="/mail/**", scope="email:read"),
    Rule(methods=("POST",), path="/mail/send", scope="email:send"),
)


def binding(url: str, **changes: Any) -> BrokerBinding:
    values: dict[str, Any] = {
        "provider": "mailer",
        "base_url": url,
        "hosts": (url.split("://")[1],),
        "placements": (BEARER,),
        "rules": RULES,
    }
    return BrokerBinding(**(values | changes))


def credential(
    bound: BrokerBinding,
    *,
    connection: str = "c-1",
    fields: Mapping[str, str] | None = None,
    expires_at: datetime | None = None,
) -> bytes:
    """The plaintext of a credential's message."""
    payload = CredentialPayload(
        connection_id=connection,
        provider=bound.provider,
        connection_revision=1,
        fields={k: SecretStr(v) for k, v in (fields or {"access_token": TOKEN}).items()},
        expires_at=expires_at,
        binding=bound,
    )
    return payload.model_dump_json().encode()


def basic(**fields: str) -> dict[str, Any]:
    """Changes of a binding that places a user name and a password (RFC 7617)."""
    placement = Placement(at="basic", username="{username}", password="{password}")
    return {"placements": (placement,), "public_fields": ("username",), **fields}


def policy(*scopes: str) -> bytes:
    return AgentPermissions(scopes=frozenset(scopes)).model_dump_json().encode()


def skill(name: str = "mail-skill", text: str = "print('mail')\n") -> tuple[bytes, bytes]:
    """A skill's message and its archive."""
    manifest = VmSkillManifest(
        skill_dir_name=name,
        provider="mailer",
        write_files=(
            VmWriteFile(path="SKILL.md", content="# Mail\n"),
            VmWriteFile(path="bin/mail", content=text, permissions="0755"),
        ),
    )
    archive = pack_skills([manifest])
    document = {"kind": "skill", "dir": name, "archive": base64.b64encode(archive).decode()}
    return json.dumps(document).encode(), archive


def write_settings(root: Path, control: Control, **changes: Any) -> Settings:
    """The machine's files as composing leaves them."""
    (root / "etc/aura").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/agent").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/aura").mkdir(mode=0o700, exist_ok=True)
    (root / "run/aura").mkdir(mode=0o750, parents=True, exist_ok=True)
    (root / "run/agent").mkdir(exist_ok=True)
    document = {
        "instance_id": INSTANCE,
        "control_url": control.url,
        "control_public_keys": {control.keys.signer_kid: b64url(control.keys.sig_public)},
        "listen": None,
        "agent_user": str(os.geteuid()),
    }
    (root / "etc/aura/vmd.json").write_text(json.dumps(document | changes))
    (root / "etc/aura/join-token").write_text(JOIN_TOKEN + "\n")
    return load_settings({"AURA_ROOT": str(root)})


@dataclass
class Machine:
    """What tests do to a machine whose daemon runs."""

    root: Path
    settings: Settings
    control: Control

    @property
    def url(self) -> str:
        listen = json.loads(self.settings.layout.listen_file.read_text())
        return f"http://{listen['host']}:{listen['port']}"

    @asynccontextmanager
    async def broker(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.UnixConnector(path=str(self.settings.layout.broker_socket))
        async with aiohttp.ClientSession(
            "http://broker", connector=connector, auto_decompress=False
        ) as session:
            yield session

    async def push(
        self, subject: str, message: bytes, *, bearer: str | None = GATEWAY_TOKEN
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{self.url}/internal/credentials/{subject}", data=message, headers=headers
            ) as answer,
        ):
            return answer.status, json.loads(await answer.read())

    async def deliver(self, subject: str, plaintext: bytes, *, revision: int | None = None) -> None:
        message = self.control.seal(subject, plaintext, revision=revision or now_ms())
        status, document = await self.push(subject, message)
        assert status == 200, document

    async def health(self, *, bearer: str | None = None) -> tuple[int, dict[str, Any]]:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/health", headers=headers) as answer,
        ):
            return answer.status, json.loads(await answer.read())

    def actions(self) -> list[dict[str, Any]]:
        path = self.settings.layout.state / "actions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@asynccontextmanager
async def running(
    root: Path, control: Control, *, limits: BrokerLimits | None = None, **changes: Any
) -> AsyncIterator[Machine]:
    """Run a daemon until the block ends, then end it as SIGTERM would."""
    settings = write_settings(root, control, **changes)
    daemon = create_app(settings, limits=limits)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(daemon.run(stop, ready=ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            waiting.cancel()
            await task
        yield Machine(root=root, settings=settings, control=control)
    finally:
        stop.set()
        await task


@asynccontextmanager
async def enrolled(root: Path, control: Control, **options: Any) -> AsyncIterator[Machine]:
    """Like :func:`running`, once the machine reports."""
    before = len(control.heartbeats)
    async with running(root, control, **options) as machine:
        await until(lambda: len(control.heartbeats) > before, changed=control.changed)
        yield machine
