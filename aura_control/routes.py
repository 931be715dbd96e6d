"""The whole URL table."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from aura_control.api import agents, events, health, integrations, providers, tools, vm
from aura_control.web import authorization

__all__ = ["routes"]


def routes() -> list[BaseRoute]:
    """Every route of the control plane."""
    return [
        Route("/healthz", health.healthz, methods=["GET"]),
        Route("/readyz", health.readyz, methods=["GET"]),
        Route("/metrics", health.metrics, methods=["GET"]),
        Route("/api/providers", providers.list_providers, methods=["GET"]),
        Route("/api/integrations", integrations.list_integrations, methods=["GET"]),
        Route("/api/integrations/{provider}", authorization.authorize, methods=["GET"]),
        Route("/api/integrations/{provider}", integrations.connect_by_fields, methods=["POST"]),
        Route(
            "/api/integrations/{provider}", integrations.disconnect_integration, methods=["DELETE"]
        ),
        Route("/api/integrations/{provider}/link", integrations.link_integration, methods=["POST"]),
        Route("/api/integrations/{provider}/continue", authorization.proceed, methods=["POST"]),
        Route("/api/integrations/{provider}/callback", authorization.callback, methods=["GET"]),
        Route(
            "/api/integrations/{provider}/validate",
            integrations.validate_integration,
            methods=["POST"],
        ),
        Route("/api/events", events.watch_user, methods=["GET"]),
        Route("/api/agents", agents.list_agents, methods=["GET"]),
        Route("/api/agents", agents.create_agent, methods=["POST"]),
        Route("/api/agents/{id}", agents.get_agent, methods=["GET"]),
        Route("/api/agents/{id}", agents.update_agent, methods=["PATCH"]),
        Route("/api/agents/{id}", agents.destroy_agent, methods=["DELETE"]),
        Route("/api/agents/{id}/events", events.watch_agent, methods=["GET"]),
        Route("/api/agents/{id}/health", agents.get_health, methods=["GET"]),
        Route("/api/agents/{id}/tools/{tool}", tools.call_tool, methods=["POST"]),
        Route("/vm/v1/join", vm.join, methods=["POST"]),
        Route("/vm/v1/heartbeat", vm.heartbeat, methods=["POST"]),
        Route("/vm/v1/pull", vm.pull, methods=["POST"]),
        Route("/vm/v1/ack", vm.ack, methods=["POST"]),
    ]
