"""A control plane for the daemon's tests, which speaks what the real one speaks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from aura_core.wire import (
    ControlKeys,
    JoinAnswer,
    JoinRequest,
    Op,
    PushHeader,
    VmKeys,
    key_id,
    parse_push,
    seal_join_answer,
    seal_push,
    verify_ack,
    verify_join,
    verify_request,
)

INSTANCE = "instance-1"
JOIN_TOKEN = "join-token-of-this-machine"
GATEWAY_TOKEN = "gateway-token-0123456789abcdef"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def until(condition: Callable[[], object], *, changed: asyncio.Event) -> None:
    """Wait for a condition, looked at whenever ``changed`` is set."""
    async with asyncio.timeout(60):
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
        self.acks_at_once: list[int] = []
        self.messages_at_once = 2
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: {}
        """What a heartbeat's answer says beside the usual."""
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
            recipient_kid=key_id(recipient),
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
        usual = {"lacking": self._lacking(body["revisions"]), "heartbeat_seconds": 1}
        return usual | self.answer(body)

    def _pull(self, body: dict[str, Any]) -> dict[str, Any]:
        lacking = self._lacking(body["revisions"])
        messages = [
            json.loads(self.desired[subject]) for subject in lacking[: self.messages_at_once]
        ]
        return {"messages": messages, "more": len(lacking) > self.messages_at_once}

    def _ack(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.acks_to_lose:
            self.acks_to_lose -= 1
            raise web.HTTPServiceUnavailable
        assert self.machine is not None
        self.acks_at_once.append(len(body["acks"]))
        acks = [verify_ack(document, self.machine.sig_public) for document in body["acks"]]
        for ack in acks:
            assert ack.instance_id == INSTANCE
            self.acked[ack.connection_id] = (ack.revision, ack.digest)
        return {"acked": [ack.connection_id for ack in acks]}
