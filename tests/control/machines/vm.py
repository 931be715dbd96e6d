"""A machine as the control plane sees one: it joins, reports, pulls, and takes messages.

It speaks ``aura_core.wire`` with keys of its own; only its process and its disk are missing.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from aura_core.compute import MachineRequest
from aura_core.errors import RevisionConflict, StaleRevision, WireError
from aura_core.wire import (
    Ack,
    Push,
    VmKeys,
    check_bearer,
    make_join,
    open_join_answer,
    parse_public_keys,
    parse_push,
    sign_ack,
    sign_request,
)


@dataclass
class Held:
    revision: int
    digest: str
    op: str
    content: dict[str, Any] | None


class Clockwork:
    """Times that never repeat, in milliseconds, around the real one."""

    def __init__(self, start: int) -> None:
        self.now = start

    def __call__(self) -> int:
        self.now += 1
        return self.now


@dataclass
class Vm:
    """One machine. Its ``faults`` say how it misbehaves when it is reached."""

    instance_id: str
    join_token: str
    control_keys: dict[str, bytes]
    http: httpx.AsyncClient
    clock: Clockwork
    keys: VmKeys = field(default_factory=VmKeys.generate)
    gateway_token: str = ""
    held: dict[str, Held] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=lambda: {"runtime": {"ready": True}})
    faults: list[str] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    @classmethod
    def from_user_data(
        cls, request: MachineRequest, http: httpx.AsyncClient, clock: Clockwork
    ) -> Vm:
        """The machine that boots from what a compute was given."""
        text = gzip.decompress(base64.b64decode(request.user_data)).decode()
        assert text.startswith("#cloud-config")
        files = {f["path"]: f["content"] for f in json.loads(text.split("\n", 1)[1])["write_files"]}
        settings = json.loads(files["/etc/aura/vmd.json"])
        return cls(
            instance_id=settings["instance_id"],
            join_token=files["/etc/aura/join-token"].strip(),
            control_keys=parse_public_keys(settings["control_public_keys"]),
            http=http,
            clock=clock,
        )

    # -- what it asks of the control plane

    async def join(self, keys: VmKeys | None = None) -> httpx.Response:
        keys = keys or self.keys
        raw = make_join(
            keys,
            instance_id=self.instance_id,
            join_token=self.join_token,
            issued_at=self.clock(),
        )
        response = await self.http.post("/vm/v1/join", content=raw)
        if response.status_code == 200:
            answer = open_join_answer(
                response.content,
                instance_id=self.instance_id,
                keys=keys,
                control_public_keys=self.control_keys,
            )
            self.gateway_token = answer.gateway_token
        return response

    async def post(
        self, path: str, document: Any, *, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return await self.http.post(path, content=body, headers=headers or self.signed(path, body))

    def signed(
        self, path: str, body: bytes, *, keys: VmKeys | None = None, instance_id: str | None = None
    ) -> dict[str, str]:
        """The headers of a request, by other keys or for another machine if need be."""
        return sign_request(
            keys or self.keys,
            method="POST",
            path=path,
            instance_id=instance_id or self.instance_id,
            issued_at=self.clock(),
            body=body,
        )

    @property
    def revisions(self) -> dict[str, int]:
        return {subject: held.revision for subject, held in self.held.items()}

    async def heartbeat(self, **changes: Any) -> httpx.Response:
        body = {
            "issued_at": self.clock(),
            "revisions": self.revisions,
            "health": self.health,
            **changes,
        }
        return await self.post("/vm/v1/heartbeat", body)

    async def pull(self) -> list[str]:
        """Pulls and acknowledges until nothing is lacking; the subjects that came."""
        came: list[str] = []
        while True:
            answer = (await self.post("/vm/v1/pull", {"revisions": self.revisions})).json()
            acks = []
            for message in answer["messages"]:
                acks.append(self.take_document(message))
                came.append(message["header"]["connection_id"])
            if acks:
                response = await self.post("/vm/v1/ack", {"acks": acks})
                assert response.status_code == 200, response.text
            if not answer["more"]:
                return came

    async def boot(self) -> None:
        response = await self.join()
        assert response.status_code == 200, response.text
        await self.pull()
        response = await self.heartbeat()
        assert response.status_code == 200, response.text

    # -- how it is reached

    def take(self, push: Push) -> dict[str, Any]:
        """The daemon's checks, in its order, but for the bearer's."""
        push.verify(self.control_keys)
        push.check_recipient(self.instance_id, self.keys.recipient_kid)
        subject = push.header.connection_id
        known = self.held.get(subject)
        if push.check_revision(
            stored=known.revision if known else None, stored_digest=known.digest if known else None
        ):
            plain = push.open(self.keys)
            self.held[subject] = Held(
                revision=push.header.revision,
                digest=push.digest,
                op=push.header.op,
                content=json.loads(plain) if push.header.op == "put" else None,
            )
        return sign_ack(
            Ack(
                instance_id=self.instance_id,
                connection_id=subject,
                revision=push.header.revision,
                digest=push.digest,
                applied_at=self.clock(),
            ),
            self.keys,
        )

    def take_document(self, message: dict[str, Any]) -> dict[str, Any]:
        """Takes a message as pulling gives it; the acknowledgement."""
        return self.take(parse_push(json.dumps(message).encode()))

    def receive(self, subject: str, request: httpx.Request, body: bytes) -> httpx.Response:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "unreachable":
            raise httpx.ConnectError("refused")
        self.received.append(body)
        if fault == "refuse":
            return httpx.Response(500)
        try:
            check_bearer(request.headers.get("authorization"), token=self.gateway_token)
            push = parse_push(body)
            assert push.header.connection_id == subject
            ack = self.take(push)
        except StaleRevision as error:
            return _problem(409, "stale-revision", error.stored)
        except RevisionConflict as error:
            return _problem(409, "revision-conflict", error.stored)
        except WireError:
            return httpx.Response(401)
        if fault == "lose":
            raise httpx.ReadTimeout("lost")
        if fault == "impostor":
            stranger = VmKeys.generate()
            fields = {k: v for k, v in ack.items() if k != "sig"}
            ack = sign_ack(Ack(**fields), stranger)
        return httpx.Response(200, json=ack)


def _problem(status: int, name: str, stored: int) -> httpx.Response:
    return httpx.Response(status, json={"type": f"urn:aura:problem:{name}", "stored": stored})


class Network(httpx.AsyncBaseTransport):
    """Carries the control plane's requests to machines by their host name."""

    def __init__(self) -> None:
        self.vms: dict[str, Vm] = {}
        self.reached: list[tuple[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        vm = self.vms.get(request.url.host)
        if vm is None:
            raise httpx.ConnectError("no such host")
        prefix = "/internal/credentials/"
        assert request.url.path.startswith(prefix)
        subject = request.url.path.removeprefix(prefix)
        self.reached.append((vm.instance_id, subject))
        answer = vm.receive(subject, request, await request.aread())
        # As a real connection gives it: to be read once, by whoever sent the request.
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(answer.content))
