"""The user's connections as JSON. No answer holds a secret: none is ever opened to make one."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aura_control.api.request import (
    Body,
    Id,
    authenticate,
    checked,
    path_parameter,
    read_body,
    read_json,
    read_nothing,
    services_of,
)
from aura_control.db.models import Delivery, DeliveryOp, Instance
from aura_control.services.authorization import Wish
from aura_control.services.connections import (
    ConnectionView,
    connect_with_fields,
    list_connections,
    validate_connection,
)
from aura_control.services.disconnect import disconnect
from aura_control.services.lifetime import renews_at
from aura_control.services.links import make_link
from aura_control.services.receipts import receipt_of

__all__ = [
    "connect_by_fields",
    "disconnect_integration",
    "link_integration",
    "list_integrations",
    "validate_integration",
]


class LinkBody(Body):
    """What the link should connect."""

    auth: Id | None = None
    agent_id: Id | None = None
    variables: dict[Id, str] = Field(default_factory=dict, max_length=32)


class FieldsBody(Body):
    """The manifest's key fields, and what else the connection needs."""

    fields: dict[Id, str] = Field(max_length=32)
    auth: Id | None = None
    agent_id: Id | None = None
    variables: dict[Id, str] = Field(default_factory=dict, max_length=32)


async def list_integrations(request: Request) -> Response:
    """All connections of the user."""
    principal = await authenticate(request)
    await read_nothing(request)
    views = await list_connections(services_of(request), principal)
    return JSONResponse({"integrations": [_connection(view) for view in views]})


async def connect_by_fields(request: Request) -> Response:
    """Connects by key: 201 once the provider accepted it.

    The body is ``{"fields": {...}}`` with ``auth``, ``variables`` and ``agent_id`` beside it, or
    the fields alone.
    """
    principal = await authenticate(request)
    document: JsonValue = await read_json(request)
    if isinstance(document, dict) and not isinstance(document.get("fields"), dict):
        document = {"fields": document}
    body = checked(FieldsBody, document)
    view = await connect_with_fields(
        services_of(request),
        principal,
        path_parameter(request, "provider"),
        fields=body.fields,
        auth=body.auth,
        variables=body.variables,
        agent_id=body.agent_id,
    )
    return JSONResponse(_connection(view), status_code=201)


async def link_integration(request: Request) -> Response:
    """Makes a link that a browser without a token can take up once."""
    principal = await authenticate(request)
    body = await read_body(request, LinkBody, optional=True)
    wish = Wish(auth=body.auth, agent_id=body.agent_id, variables=body.variables)
    link = await make_link(
        services_of(request), principal, path_parameter(request, "provider"), wish
    )
    return JSONResponse(
        {"url": link.url, "expires_at": link.expires_at.isoformat()},
        status_code=201,
        headers={"Cache-Control": "no-store"},
    )


async def validate_integration(request: Request) -> Response:
    """Asks the provider whether the credential works."""
    principal = await authenticate(request)
    await read_nothing(request)
    validation = await validate_connection(
        services_of(request), principal, path_parameter(request, "provider")
    )
    return JSONResponse({"valid": validation.valid, "reason": validation.reason})


async def disconnect_integration(request: Request) -> Response:
    """Ends the connection; answers the receipt as it stands."""
    principal = await authenticate(request)
    await read_nothing(request)
    view = await disconnect(services_of(request), principal, path_parameter(request, "provider"))
    return JSONResponse(receipt_of(view))


def _connection(view: ConnectionView) -> dict[str, Any]:
    connection = view.connection
    expiry, since = connection.token_expiry, connection.connected_at
    renewal = renews_at(connection)
    return {
        "id": connection.id,
        "provider": connection.provider,
        "auth": connection.auth_method,
        "state": connection.state.value,
        "reason": connection.reason,
        "account_id": connection.account_id,
        "scopes": list(connection.scopes),
        "metadata": dict(connection.metadata),
        "token_expiry": expiry.isoformat() if expiry else None,
        "renews_at": renewal.isoformat() if renewal else None,
        "connected_at": since.isoformat() if since else None,
        "updated_at": connection.updated_at.isoformat(),
        "revision": connection.revision,
        "receipt": receipt_of(view),
        "machines": [_machine(row, instance) for row, instance in view.machines],
    }


def _machine(row: Delivery, instance: Instance) -> dict[str, Any]:
    """What one machine should hold of the connection, and what it proved to hold."""
    state = "pending"
    if row.acked_revision == row.desired_revision:
        state = "held" if row.op is DeliveryOp.PUT else "wiped"
    return {
        "instance_id": row.instance_id,
        "agent_id": instance.agent_id,
        "state": state,
        "desired_revision": row.desired_revision,
        "acked_revision": row.acked_revision,
        "acked_at": row.acked_at.isoformat() if row.acked_at else None,
        "attempts": row.attempts,
        "last_error": row.last_error if state == "pending" else None,
    }
