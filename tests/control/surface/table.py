"""Every route of the control plane: who may use it, what it takes, and a request that is right.

``test_table`` compares it with the application's own table, so a new route has to be put here, and
is then tried with everything that ``test_bad_input`` and ``test_others`` try.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["TABLE", "Entry"]

Takes = Literal["nothing", "json", "query", "form", "signed"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One route. ``{id}`` in it is an agent of the world's owner."""

    method: str
    path: str
    takes: Takes = "nothing"
    needs: Literal["token", "machine", "browser", "nobody"] = "token"
    provider: str = "acme"
    good: Any = None
    """What it takes, where it takes something."""
    status: int = 200
    """How the good request is answered."""
    wrong: tuple[Any, ...] = ()
    """Bodies of its own that are JSON and cannot be used."""
    agent_field: str | None = None
    """Where a body or query names an agent."""
    lists: str | None = None
    """The key of an answer that lists what is the caller's."""
    changed: tuple[str, ...] = field(default=())
    """Names in the good body that are tried with a value of every wrong type."""

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def body(self) -> bool:
        return self.takes in ("json", "form")

    def at(self, *, agent_id: str, provider: str | None = None, tool: str = "notes_list") -> str:
        return self.path.format(id=agent_id, provider=provider or self.provider, tool=tool)


def _agents() -> list[Entry]:
    long = "x" * 9000
    shared = (
        {"name": ""},
        {"name": "x" * 81},
        {"name": "a\x00b"},
        {"persona": {"role": long}},
        {"permissions": {"scopes": ["Everything"]}},
        {"permissions": {"scopes": ["a:b"] * 201}},
        {"permissions": {"scopes": [], "admin": True}},
        {"integrations": ["nobody"]},
        {"integrations": ["../x"]},
        {"config": {"volume": "loud"}},
        {"config": {"x": "\x00"}},
    )
    names = ("name", "persona", "permissions", "config", "integrations")
    return [
        Entry(method="GET", path="/api/events"),
        Entry(method="GET", path="/api/agents", lists="agents"),
        Entry(
            method="POST",
            path="/api/agents",
            takes="json",
            good={"name": "Robin"},
            status=201,
            wrong=(
                {},
                *({"name": "A", **one} for one in shared),
                {"name": "A", "compute": "moon"},
                {"name": "A", "runtime": "none"},
            ),
            changed=(*names, "compute", "runtime"),
        ),
        Entry(method="GET", path="/api/agents/{id}"),
        Entry(
            method="PATCH",
            path="/api/agents/{id}",
            takes="json",
            good={"name": "Other"},
            wrong=(*shared, {"compute": "scripted"}, {"state": "running"}, {"id": "x"}),
            changed=names,
        ),
        Entry(method="GET", path="/api/agents/{id}/events"),
        Entry(method="GET", path="/api/agents/{id}/health"),
        Entry(
            method="POST",
            path="/api/agents/{id}/tools/{tool}",
            takes="json",
            good={"arguments": {}},
            status=409,  # the account that the tool needs is not connected
            wrong=({"text": "x"}, {"arguments": {"x": "\x00"}}),
            changed=("arguments",),
        ),
        Entry(method="DELETE", path="/api/agents/{id}", status=202),
    ]


def _connections() -> list[Entry]:
    base = "/api/integrations/{provider}"
    return [
        Entry(method="GET", path="/api/providers"),
        Entry(method="GET", path="/api/integrations", lists="integrations"),
        Entry(
            method="GET",
            path=base,
            takes="query",
            good={},
            status=302,
            wrong=({"surprise": "1"}, {"auth": "nope"}, {"agent_id": "\x00"}),
            agent_field="agent_id",
        ),
        Entry(
            method="POST",
            path=base,
            takes="json",
            provider="keyed",
            good={"fields": {"api_key": "key-of-ada"}},
            status=201,
            wrong=(
                {},
                {"fields": {}},
                {"fields": {"api_key": ""}},
                {"fields": {"api_key": "x" * 65}},
                {"fields": {"api_key": "a\r\nb"}},
                {"fields": {"api_key": "key-of-ada", "other": "x"}},
                {"fields": {"api_key": "key-of-ada"}, "auth": "nope"},
                {"fields": {"api_key": "key-of-ada"}, "variables": {"x": "y"}},
            ),
            agent_field="agent_id",
            changed=("fields", "auth", "agent_id", "variables"),
        ),
        Entry(
            method="POST",
            path=f"{base}/link",
            takes="json",
            good={"variables": {}},
            status=201,
            wrong=({"auth": "nope"}, {"variables": {"x": "y"}}, {"agent_id": "\x00"}),
            agent_field="agent_id",
            changed=("auth", "agent_id", "variables"),
        ),
        Entry(
            method="POST",
            path=f"{base}/continue",
            takes="form",
            needs="browser",
            good={"ticket": "x" * 43, "proof": "x" * 43},
            status=422,
        ),
        Entry(
            method="GET",
            path=f"{base}/callback",
            takes="query",
            needs="browser",
            good={"state": "x" * 43, "code": "c"},
            status=422,
        ),
        Entry(method="POST", path=f"{base}/validate"),
        Entry(method="DELETE", path=base),
    ]


def _machines() -> list[Entry]:
    heartbeat = {"issued_at": 2**52, "revisions": {}, "health": {}}
    return [
        Entry(
            method="POST",
            path="/vm/v1/join",
            takes="json",
            needs="nobody",
            good={},
            status=400,
        ),
        Entry(
            method="POST",
            path="/vm/v1/heartbeat",
            takes="signed",
            needs="machine",
            good=heartbeat,
            wrong=({}, {**heartbeat, "revisions": {"../x": 1}}, {**heartbeat, "issued_at": 2**60}),
            changed=("issued_at", "revisions", "health"),
        ),
        Entry(
            method="POST",
            path="/vm/v1/pull",
            takes="signed",
            needs="machine",
            good={"revisions": {}},
            wrong=({}, {"revisions": {"a": 2**60}}, {"revisions": {"a": -1}}),
            changed=("revisions",),
        ),
        Entry(
            method="POST",
            path="/vm/v1/ack",
            takes="signed",
            needs="machine",
            good={"acks": []},
            wrong=({}, {"acks": [{}]}, {"acks": [{"instance_id": "x"}]}, {"acks": [{}] * 300}),
            changed=("acks",),
        ),
    ]


TABLE = [
    *(
        Entry(method="GET", path=path, needs="nobody", takes="nothing")
        for path in ("/healthz", "/readyz", "/metrics")
    ),
    *_connections(),
    *_machines(),
    *_agents(),
]
