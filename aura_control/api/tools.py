"""``POST /api/agents/{id}/tools/{tool}``: a chat tool, run in the control plane."""

from __future__ import annotations

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from aura_control.api.parameters import JsonObject, agent_id_of, tool_of
from aura_control.api.request import Body, authenticate, read_body, services_of
from aura_control.services.tools import run_tool

__all__ = ["call_tool"]


class _Call(Body):
    arguments: JsonObject = Field(default_factory=dict)


async def call_tool(request: Request) -> JSONResponse:
    """``{"result": ...}``: what the tool answered."""
    principal = await authenticate(request)
    body = await read_body(request, _Call)
    result = await run_tool(
        services_of(request),
        principal,
        agent_id_of(request),
        tool_of(request),
        body.arguments,
    )
    return JSONResponse({"result": result})
