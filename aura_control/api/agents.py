"""``/api/agents``: agents and the machines that run them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse

from aura_control.api.parameters import JsonObject, Text, agent_id_of
from aura_control.api.request import Body, authenticate, read_body, read_nothing, services_of
from aura_control.db.models import Delivery, Instance
from aura_control.services import agents
from aura_control.services.agents import AgentChanges, AgentView, NewAgent
from aura_control.services.composing import RUNTIME_CONFIG
from aura_core.permissions import LARGEST, AgentPermissions, CallLimits, DomainPattern

__all__ = [
    "create_agent",
    "destroy_agent",
    "get_agent",
    "get_health",
    "list_agents",
    "update_agent",
]

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]{0,79}$")]
Scope = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$", max_length=80)
]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Persona = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")],
        Annotated[Text, StringConstraints(max_length=8192)],
    ],
    Field(max_length=16),
]
Integrations = Annotated[list[Word], Field(max_length=1000)]


class _Permissions(Body):
    """As in :class:`AgentPermissions`, whose own checks of domains and numbers it applies."""

    scopes: Annotated[list[Scope], Field(max_length=200)] = Field(default_factory=list)
    rate_limits: Annotated[dict[Scope, CallLimits], Field(max_length=200)] = Field(
        default_factory=dict
    )
    allowed_domains: Annotated[list[DomainPattern], Field(max_length=500)] | None = None
    max_daily_token_spend: Annotated[int, Field(ge=0, le=LARGEST)] | None = None

    def value(self) -> AgentPermissions:
        return AgentPermissions.model_validate(self.model_dump())

    def changes(self) -> dict[str, Any]:
        """The members that the body names, as they are stored."""
        return self.value().model_dump(mode="json", include=self.model_fields_set)


class _NewAgent(Body):
    name: Name
    compute: Word | None = None
    runtime: Word | None = None
    persona: Persona = Field(default_factory=dict)
    permissions: _Permissions = Field(default_factory=_Permissions)
    config: JsonObject = Field(default_factory=dict)
    integrations: Integrations | None = None


class _Changes(Body):
    name: Name = ""
    persona: Persona = Field(default_factory=dict)
    permissions: _Permissions = Field(default_factory=_Permissions)
    config: JsonObject = Field(default_factory=dict)
    integrations: Integrations | None = None


async def create_agent(request: Request) -> JSONResponse:
    """201 with the agent; its machine is on its way (``state``)."""
    principal = await authenticate(request)
    body = await read_body(request, _NewAgent)
    new = NewAgent(
        name=body.name,
        compute=body.compute,
        runtime=body.runtime,
        persona=body.persona,
        permissions=body.permissions.value(),
        config=body.config,
        integrations=None if body.integrations is None else tuple(body.integrations),
    )
    view = await agents.create(services_of(request), principal, new)
    return JSONResponse(
        agent_document(view),
        status_code=201,
        headers={"Location": f"/api/agents/{view.agent.id}"},
    )


async def list_agents(request: Request) -> JSONResponse:
    principal = await authenticate(request)
    await read_nothing(request)
    views = await agents.list_agents(services_of(request), principal)
    return JSONResponse({"agents": [agent_document(view) for view in views]})


async def get_agent(request: Request) -> JSONResponse:
    principal = await authenticate(request)
    await read_nothing(request)
    view = await agents.get(services_of(request), principal, agent_id_of(request))
    return JSONResponse(agent_document(view))


async def update_agent(request: Request) -> JSONResponse:
    """Only what the body names changes, within ``permissions`` too: a client that knows scopes
    alone takes no limit away. ``integrations: null`` means all connections."""
    principal = await authenticate(request)
    body = await read_body(request, _Changes)
    changes = AgentChanges(
        fields=frozenset(body.model_fields_set),
        name=body.name,
        persona=body.persona,
        permissions=body.permissions.changes(),
        config=body.config,
        integrations=None if body.integrations is None else tuple(body.integrations),
    )
    view = await agents.update(services_of(request), principal, agent_id_of(request), changes)
    return JSONResponse(agent_document(view))


async def destroy_agent(request: Request) -> JSONResponse:
    """202 with the agent and the instance that is being destroyed; 404 once both are gone."""
    principal = await authenticate(request)
    await read_nothing(request)
    view = await agents.destroy(services_of(request), principal, agent_id_of(request))
    return JSONResponse(agent_document(view), status_code=202)


async def get_health(request: Request) -> JSONResponse:
    """What the machine reported last, and when."""
    principal = await authenticate(request)
    await read_nothing(request)
    view = await agents.get(services_of(request), principal, agent_id_of(request))
    instance = view.instance
    return JSONResponse(
        {
            "agent_id": view.agent.id,
            "instance_id": instance.id if instance else None,
            "state": instance.state.value if instance else None,
            "reason": instance.state_reason if instance else None,
            "reported_at": _time(instance.last_heartbeat_at) if instance else None,
            "health": (instance.health if instance else None) or None,
        }
    )


def agent_document(view: AgentView) -> dict[str, Any]:
    """An agent as the API shows it; no field of it is secret."""
    agent, instance = view.agent, view.instance
    return {
        "id": agent.id,
        "name": agent.name,
        "compute": agent.compute,
        "runtime": agent.runtime,
        "persona": agent.persona,
        "permissions": _permissions_document(agent.permissions),
        "config": agent.config.get(RUNTIME_CONFIG, {}),
        "integrations": None if view.integrations is None else [*view.integrations],
        "state": instance.state.value if instance else None,
        "state_reason": instance.state_reason if instance else None,
        "created_at": _time(agent.created_at),
        "updated_at": _time(agent.updated_at),
        "instance": None if instance is None else _instance_document(instance),
        "deliveries": [_delivery_document(row) for row in view.deliveries],
    }


def _permissions_document(stored: dict[str, Any]) -> dict[str, Any]:
    permissions = AgentPermissions.model_validate(stored)
    document = permissions.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
    return {**document, "scopes": sorted(permissions.scopes)}


def _instance_document(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "state": instance.state.value,
        "reason": instance.state_reason,
        "compute": instance.compute,
        "machine_name": instance.machine_name,
        "quarantined_reason": instance.quarantined_reason,
        "last_heartbeat_at": _time(instance.last_heartbeat_at),
        "user_data_size": instance.user_data_size,
        "left_to_daemon": [*instance.left_to_daemon],
        "created_at": _time(instance.created_at),
        "updated_at": _time(instance.updated_at),
    }


def _delivery_document(row: Delivery) -> dict[str, Any]:
    return {
        "subject": row.subject,
        "op": row.op.value,
        "desired_revision": row.desired_revision,
        "acked_revision": row.acked_revision,
        "acked_at": _time(row.acked_at),
        "attempts": row.attempts,
        "last_error": row.last_error,
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
