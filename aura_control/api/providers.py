"""The catalogue."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aura_control.api.request import authenticate, read_nothing, services_of
from aura_control.services.providers import auth_id
from aura_core.manifest import AuthMethod
from aura_core.registry import Listing

__all__ = ["list_providers"]


async def list_providers(request: Request) -> Response:
    """Everything that can be connected, and what cannot with its reason."""
    await authenticate(request)
    await read_nothing(request)
    listings = services_of(request).registry.listings()
    return JSONResponse({"providers": [_provider(listing) for listing in listings]})


def _provider(listing: Listing) -> dict[str, Any]:
    manifest = listing.manifest
    line: dict[str, Any] = {
        "id": listing.id,
        "name": listing.name,
        "status": listing.status,
        "reason": listing.reason,
        "category": None,
        "description": "",
        "auth": [],
        "skill": False,
    }
    if manifest is None:
        return line
    return line | {
        "category": manifest.category,
        "description": manifest.description,
        "website_url": manifest.website_url,
        "auth": [_auth(method) for method in manifest.auth],
        "skill": manifest.skill is not None,
        "single_source": list(manifest.single_source),
        "tools": [tool.name for tool in manifest.tools],
    }


def _auth(method: AuthMethod) -> dict[str, Any]:
    return {
        "id": auth_id(method),
        "strategy": method.strategy,
        "label": method.label,
        "variables": [
            {
                "name": variable.name,
                "label": variable.label or variable.name,
                "default": variable.default,
                "choices": list(variable.choices),
                "required": variable.required and variable.default is None,
            }
            for variable in method.variables
            if variable.provided_by == "user"
        ],
        "fields": [
            {
                "name": field.name,
                "label": field.label,
                "secret": field.secret,
                "required": field.required,
                "help": field.help,
            }
            for field in getattr(method, "fields", ())
        ],
    }
