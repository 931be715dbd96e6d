"""A provider and a machine: real servers on loopback, in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import SecretStr
from yarl import URL

from aura_core.credentials import BrokerBinding, CredentialPayload
from aura_core.encoding import b64url
from aura_core.manifest import BEARER, Placement, Rule
from aura_core.permissions import AgentPermissions
from aura_core.skills import VmSkillManifest, VmWriteFile, pack_skills
from aura_vmd.app import create_app
from aura_vmd.broker import BrokerLimits
from aura_vmd.settings import Settings, load_settings
from tests.vmd.control_plane import (
    GATEWAY_TOKEN,
    INSTANCE,
    JOIN_TOKEN,
    Control,
    Handler,
    now_ms,
    until,
)

TOKEN = "ya29.an-access-token/with+odd=characters"


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


def policy(*scopes: str, **limits: Any) -> bytes:
    permissions = AgentPermissions.model_validate({"scopes": scopes, **limits})
    return permissions.model_dump_json().encode()


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
    _last: int = 0

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
        # Later than the one before even where both come within a millisecond.
        self._last = revision or max(now_ms(), self._last + 1)
        message = self.control.seal(subject, plaintext, revision=self._last)
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
    # As in its process, the daemon has threads of its own and is over when they are: one may still
    # be writing for a task that was cancelled.
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor()
    loop.set_default_executor(threads)
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
        try:
            await task
        finally:
            threads.shutdown()
            loop.set_default_executor(ThreadPoolExecutor())


@asynccontextmanager
async def enrolled(root: Path, control: Control, **options: Any) -> AsyncIterator[Machine]:
    """Like :func:`running`, once the machine reports."""
    before = len(control.heartbeats)
    async with running(root, control, **options) as machine:
        await until(lambda: len(control.heartbeats) > before, changed=control.changed)
        yield machine


async def ask(
    machine: Machine, target: str, *, method: str = "GET", **options: Any
) -> tuple[int, dict[str, str], bytes]:
    """One call to the broker, its target as it is; status, headers (lower case) and body."""
    async with (
        machine.broker() as broker,
        broker.request(
            method, URL("http://broker" + target, encoded=True), allow_redirects=False, **options
        ) as answer,
    ):
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, headers, await answer.read()
