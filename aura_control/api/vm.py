"""``/vm/v1``: what machines ask of the control plane.

A join request signs itself; every other request is signed by the machine that it names. The body
is read as bytes, because those are what was signed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aura_control.api.parameters import JsonObject
from aura_control.api.request import Body, checked, limited_body, parse_json, services_of
from aura_control.composition import Services
from aura_control.db.models import Instance
from aura_control.db.transaction import Transaction
from aura_control.services import enrolment, heartbeats, machines
from aura_control.services.conduct import Conduct, Refusal
from aura_core.errors import MalformedMessage
from aura_core.permissions import Count

__all__ = ["ack", "heartbeat", "join", "pull"]

Subject = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$")]
Revision = Annotated[int, Field(ge=0, lt=2**53)]
Revisions = Annotated[dict[Subject, Revision], Field(max_length=1024)]

_Printable = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,256}$")]

B = TypeVar("B", bound=Body)


class _Count(Body):
    what: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_:]{0,159}$")]
    minute: Revision
    number: Revision


class _Usage(Body):
    counts: Annotated[list[_Count], Field(max_length=256)]
    since: Revision


class _Refusal(Body):
    seq: Revision
    at: Annotated[str, StringConstraints(pattern=r"^[0-9:.TZ+-]{0,40}$")]
    method: _Printable
    provider: _Printable
    host: _Printable
    path: _Printable
    rule: _Printable
    left_out: Revision = 0


class _Heartbeat(Body):
    issued_at: Revision
    revisions: Revisions
    health: JsonObject
    usage: _Usage | None = None
    refused: Annotated[list[_Refusal], Field(max_length=100)] = Field(default_factory=list)

    @property
    def conduct(self) -> Conduct:
        counts = self.usage.counts if self.usage else ()
        return Conduct(
            counts=tuple(Count(c.what, c.minute, c.number) for c in counts),
            since=self.usage.since if self.usage else None,
            refused=tuple(Refusal(**refusal.model_dump()) for refusal in self.refused),
        )


class _Pull(Body):
    revisions: Revisions


class _Acks(Body):
    acks: Annotated[list[dict[str, Any]], Field(max_length=256)]


async def join(request: Request) -> Response:
    """The sealed answer to a machine's join request."""
    answer = await enrolment.join(services_of(request), await limited_body(request))
    return Response(answer, media_type="application/json", headers={"Cache-Control": "no-store"})


async def heartbeat(request: Request) -> JSONResponse:
    """``{"lacking": [subjects], "heartbeat_seconds": n}``, and where the machine reported what its
    agent used or was refused, ``usage`` and ``refused_seen``."""
    services = services_of(request)

    async def take(
        tx: Transaction, instance: Instance, body: _Heartbeat
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        return await heartbeats.heartbeat(
            services,
            tx,
            instance=instance,
            issued_at=body.issued_at,
            revisions=body.revisions,
            report=body.health,
            conduct=body.conduct,
        )

    instance, (lacking, answer) = await _signed(request, services, _Heartbeat, take)
    await heartbeats.tell_progress(services.workflows, instance)
    if lacking:
        services.deliverer.wake()
    return JSONResponse(
        {
            "lacking": [*lacking],
            "heartbeat_seconds": services.settings.heartbeat_seconds,
            **answer,
        }
    )


async def pull(request: Request) -> JSONResponse:
    """``{"messages": [...], "more": bool}``."""
    services = services_of(request)

    async def take(tx: Transaction, instance: Instance, body: _Pull) -> machines.Pulled:
        return await machines.pull(services, tx, instance=instance, revisions=body.revisions)

    _, pulled = await _signed(request, services, _Pull, take)
    return JSONResponse(
        {"messages": [*pulled.messages], "more": pulled.more},
        headers={"Cache-Control": "no-store"},
    )


async def ack(request: Request) -> JSONResponse:
    """``{"acked": [subjects]}``: those of which the machine now holds what it should."""
    services = services_of(request)

    async def take(tx: Transaction, instance: Instance, body: _Acks) -> tuple[str, ...]:
        return await machines.acknowledge(tx, instance=instance, acks=body.acks)

    instance, held = await _signed(request, services, _Acks, take)
    await heartbeats.tell_progress(services.workflows, instance)
    return JSONResponse({"acked": [*held]})


R = TypeVar("R")


async def _signed(
    request: Request,
    services: Services,
    model: type[B],
    take: Callable[[Transaction, Instance, B], Awaitable[R]],
) -> tuple[Instance, R]:
    """Checks who sends before what is sent is read, and takes it in, in one transaction.

    The signature is checked before that transaction: strangers do not get to hold up writers.
    """
    raw = await limited_body(request)
    async with services.database.reading() as tx:
        instance_id = await enrolment.authenticate(
            tx,
            headers=request.headers,
            method=request.method,
            path=_signed_path(request),
            body=raw,
        )
    body = checked(model, _parsed(raw))
    async with services.database.transaction() as tx:
        instance = await enrolment.admitted(tx, instance_id)
        return instance, await take(tx, instance, body)


def _parsed(raw: bytes) -> Any:
    try:
        return parse_json(raw)
    except ValueError:
        raise MalformedMessage("The body is not JSON, or names a key twice.") from None


def _signed_path(request: Request) -> str:
    query = request.url.query
    path = request.scope.get("raw_path", b"").decode("ascii", "replace") or request.url.path
    return f"{path}?{query}" if query else path
