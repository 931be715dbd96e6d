"""The fake's HTTP side: a Starlette app that holds every request and answer to the description."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes.hetzner import servers
from tests.fakes.hetzner.description import Operation, operation
from tests.fakes.hetzner.project import Problem, Project

__all__ = ["create_app"]

Thing = dict[str, Any]
Query = dict[str, list[str]]
_METHODS = ["GET", "POST", "PUT", "DELETE"]


def create_app(project: Project) -> Starlette:
    """Hetzner's API below ``/v1``, for one project."""

    async def endpoint(request: Request) -> Response:
        given = await request.body()
        asked = operation(request.method, request.path_params["path"])
        body = json.loads(given) if given else None
        query: Query = {}
        for name, value in request.query_params.multi_items():
            query.setdefault(name, []).append(value)
        with project.lock:
            headers: dict[str, str] = {}
            try:
                headers = project.charge()
                status, document, answers = _carried_out(project, request, asked, query, body)
            except Problem as problem:
                headers = headers or project.headers()
                status, document, answers = problem.status, _error(problem), True
            if asked is not None and answers:
                project.wrong += asked.wrong_answer(status, document)
        if not answers:
            await _never(request)
        if document is None:
            return Response(status_code=status, headers=headers)
        return JSONResponse(document, status_code=status, headers=headers)

    route = Route("/v1{path:path}", endpoint, methods=_METHODS)
    return Starlette(routes=[route])


async def _never(request: Request) -> None:
    """Until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _carried_out(
    project: Project, request: Request, asked: Operation | None, query: Query, body: Any
) -> tuple[int, Thing | None, bool]:
    if request.headers.get("authorization") != f"Bearer {project.token}":
        raise Problem(401, "unauthorized")
    if asked is None:
        project.wrong.append(f"{request.method} {request.url.path} is not known to the fake")
        raise Problem(404, "not_found")
    project.calls[f"{asked}?name" if "name" in query else str(asked)] += 1
    if project.read_only and asked.method != "GET":
        raise Problem(401, "token_readonly")
    wrong = asked.wrong_request(query, body)
    if wrong:
        project.wrong += wrong
        raise Problem(422, "invalid_input")
    fault = project.fault(asked.method, asked.template)
    if fault is not None and not fault.done:
        if fault.status is not None:
            raise Problem(fault.status, fault.code)
        return 204, None, False
    status, document = _HANDLERS[str(asked)](project, asked.path_id, query, body)
    if fault is not None and fault.status is not None:
        raise Problem(fault.status, fault.code)
    return status, document, fault is None


def _error(problem: Problem) -> Thing:
    error = {"code": problem.code, "message": "It cannot be done.", "details": problem.details}
    return {"error": error}


def _page(query: Query, what: str, things: Iterable[Thing]) -> tuple[int, Thing]:
    things = [*things]
    page, size = int(query.get("page", ["1"])[0]), int(query.get("per_page", ["25"])[0])
    if size > 50:
        raise Problem(422, "invalid_input")
    last = max(1, -(-len(things) // size))
    pagination = {
        "page": page,
        "per_page": size,
        "previous_page": page - 1 if page > 1 else None,
        "next_page": page + 1 if page < last else None,
        "last_page": last,
        "total_entries": len(things),
    }
    found = things[(page - 1) * size : page * size]
    return 200, {what: found, "meta": {"pagination": pagination}}


def _chosen(query: Query, things: Iterable[Thing], *equal: str) -> list[Thing]:
    found = [*things]
    for name in equal:
        if name in query:
            found = [thing for thing in found if thing[name] in query[name]]
    for term in query.get("label_selector", [""])[0].split(","):
        key, separator, value = term.partition("=")
        if key:
            found = [
                thing
                for thing in found
                if key in thing["labels"] and (not separator or thing["labels"][key] == value)
            ]
    if query.get("sort") == ["created:desc"]:
        found.sort(key=lambda thing: str(thing["created"]), reverse=True)
    return found


def _one(things: dict[int, Thing], number: int | None) -> Thing:
    if number not in things:
        raise Problem(404, "not_found")
    return things[number]


def _list_servers(project: Project, _: int | None, query: Query, __: Any) -> tuple[int, Thing]:
    shown = [servers.shown(project, server) for server in project.servers.values()]
    return _page(query, "servers", _chosen(query, shown, "name", "status"))


def _list_actions(project: Project, _: int | None, query: Query, __: Any) -> tuple[int, Thing]:
    found = [_one(project.actions, int(number)) for number in query["id"]]
    return 200, {"actions": [project.shown_action(action) for action in found]}


def _named_once(things: dict[int, Thing], name: str) -> None:
    if any(thing["name"] == name for thing in things.values()):
        raise Problem(409, "uniqueness_error", {"fields": [{"name": "name"}]})


def _create_firewall(project: Project, _: int | None, __: Query, body: Any) -> tuple[int, Thing]:
    _named_once(project.firewalls, body["name"])
    rules = [
        {"destination_ips": [], "source_ips": [], "port": None, "description": None, **rule}
        for rule in body.get("rules", ())
    ]
    made = {
        "id": project.new_id(),
        "name": body["name"],
        "labels": body.get("labels", {}),
        "created": project.stamp(),
        "rules": rules,
        "applied_to": [],
    }
    project.firewalls[made["id"]] = made
    return 201, {"firewall": made, "actions": []}


def _create_group(project: Project, _: int | None, __: Query, body: Any) -> tuple[int, Thing]:
    _named_once(project.groups, body["name"])
    made = {
        "id": project.new_id(),
        "name": body["name"],
        "labels": body.get("labels", {}),
        "type": body["type"],
        "created": project.stamp(),
        "servers": [],
    }
    project.groups[made["id"]] = made
    return 201, {"placement_group": made}


def _list_groups(project: Project, _: int | None, query: Query, __: Any) -> tuple[int, Thing]:
    for number, group in project.groups.items():
        group["servers"] = [s["id"] for s in project.servers.values() if s["group"] == number]
    return _page(query, "placement_groups", _chosen(query, project.groups.values(), "name"))


def _delete_firewall(project: Project, number: int | None, _: Query, __: Any) -> tuple[int, None]:
    _one(project.firewalls, number)
    if any(number in server["firewalls"] for server in project.servers.values()):
        raise Problem(422, "resource_in_use")
    del project.firewalls[number or 0]
    return 204, None


def _update_address(project: Project, number: int | None, _: Query, body: Any) -> tuple[int, Thing]:
    address = _one(project.addresses, number)
    address.update(body)
    return 200, {"primary_ip": address}


def _delete_address(project: Project, number: int | None, _: Query, __: Any) -> tuple[int, None]:
    if _one(project.addresses, number)["assignee_id"] is not None:
        raise Problem(422, "must_be_unassigned")
    del project.addresses[number or 0]
    return 204, None


def _listing(what: str, book: str, *equal: str) -> Callable[..., tuple[int, Thing]]:
    def handler(project: Project, _: int | None, query: Query, __: Any) -> tuple[int, Thing]:
        return _page(query, what, _chosen(query, getattr(project, book).values(), *equal))

    return handler


def _removal(book: str) -> Callable[..., tuple[int, None]]:
    def handler(project: Project, number: int | None, _: Query, __: Any) -> tuple[int, None]:
        things: dict[int, Thing] = getattr(project, book)
        _one(things, number)
        del things[number or 0]
        return 204, None

    return handler


_HANDLERS: dict[str, Callable[..., tuple[int, Thing | None]]] = {
    "GET /actions": _list_actions,
    "GET /firewalls": _listing("firewalls", "firewalls", "name"),
    "POST /firewalls": _create_firewall,
    "DELETE /firewalls/{id}": _delete_firewall,
    "GET /images": _listing("images", "images", "name", "type", "status", "architecture"),
    "DELETE /images/{id}": _removal("images"),
    "GET /placement_groups": _list_groups,
    "POST /placement_groups": _create_group,
    "DELETE /placement_groups/{id}": _removal("groups"),
    "GET /pricing": lambda project, _, __, ___: (200, {"pricing": project.pricing}),
    "GET /primary_ips": _listing("primary_ips", "addresses", "name", "ip"),
    "GET /primary_ips/{id}": lambda project, number, _, __: (
        200,
        {"primary_ip": _one(project.addresses, number)},
    ),
    "PUT /primary_ips/{id}": _update_address,
    "DELETE /primary_ips/{id}": _delete_address,
    "GET /server_types": lambda project, _, query, __: _page(query, "server_types", project.types),
    "GET /servers": _list_servers,
    "POST /servers": lambda project, _, __, body: (201, servers.create(project, body)),
    "GET /servers/{id}": lambda project, number, _, __: (
        200,
        {"server": servers.shown(project, _one(project.servers, number))},
    ),
    "DELETE /servers/{id}": lambda project, number, _, __: (
        200,
        servers.delete(project, _one(project.servers, number)),
    ),
    "POST /servers/{id}/actions/poweron": lambda project, number, _, __: (
        201,
        servers.power_on(project, _one(project.servers, number)),
    ),
    "GET /ssh_keys": _listing("ssh_keys", "keys", "name"),
}
