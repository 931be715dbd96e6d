"""Servers: made, shown, started and deleted as Hetzner does it."""

from __future__ import annotations

from typing import Any

from tests.fakes.hetzner.goods import LOCATIONS, location
from tests.fakes.hetzner.project import Problem, Project

__all__ = ["create", "delete", "power_on", "shown"]

Thing = dict[str, Any]
_LARGEST_USER_DATA = 32 * 1024
_GROUP = 10


def create(project: Project, body: Thing) -> Thing:
    """What ``POST /servers`` does with a body that the description allows."""
    kind, place, image = _ordered(project, body)
    if any(server["name"] == body["name"] for server in project.servers.values()):
        raise Problem(409, "uniqueness_error", {"fields": [{"name": "name"}]})
    if len(project.servers) >= project.most_servers:
        raise Problem(403, "resource_limit_exceeded", {"limits": [{"name": "server_limit"}]})
    if (kind["name"], place) in project.sold_out:
        raise Problem(412, "resource_unavailable")
    group = _grouped(project, body)
    number = project.new_id()
    server = {
        "id": number,
        "name": body["name"],
        "labels": body.get("labels", {}),
        "type": kind,
        "place": place,
        "image": image,
        "firewalls": [entry["firewall"] for entry in body.get("firewalls", ())],
        "ssh_keys": body.get("ssh_keys", []),
        "user_data": body.get("user_data", ""),
        "group": group,
        "begun": project.clock(),
        "off": not body.get("start_after_create", True),
        "locked_until": 0.0,
        "protected": False,
        "addresses": {
            family: _address(project, number, family, place) for family in ("ipv4", "ipv6")
        },
    }
    project.servers[number] = server
    project.boot(server)
    project.most_servers_seen = max(project.most_servers_seen, len(project.servers))
    error = project.action_errors.pop(body["name"], None)
    if error is not None:
        project.never_start.add(body["name"])
    action = project.action("create_server", number, seconds=project.start_seconds, error=error)
    return {
        "server": shown(project, server),
        "action": action,
        "next_actions": [],
        "root_password": None,
    }


def delete(project: Project, server: Thing) -> Thing:
    if server["protected"]:
        raise Problem(423, "protected")
    if project.clock() < server["locked_until"]:
        raise Problem(423, "locked")
    del project.servers[server["id"]]
    for number in server["addresses"].values():
        address = project.addresses.get(number)
        if address is None:
            continue
        address["assignee_id"] = None
        if address["auto_delete"] and not project.addresses_stay:
            del project.addresses[number]
    return {"action": project.action("delete_server", server["id"], seconds=1)}


def power_on(project: Project, server: Thing) -> Thing:
    if project.clock() < server["locked_until"]:
        raise Problem(423, "locked")
    server["off"] = False
    server["begun"] = project.clock()
    action = project.action("start_server", server["id"], seconds=project.start_seconds)
    return {"action": action}


def _ordered(project: Project, body: Thing) -> tuple[Thing, str, Thing]:
    kinds = {kind["name"]: kind for kind in project.types}
    kind, place = kinds.get(body["server_type"]), body.get("location", "fsn1")
    if kind is None or place not in {price["location"] for price in kind["prices"]}:
        raise _invalid("server_type")
    if len(body.get("user_data", "")) > _LARGEST_USER_DATA:
        raise _invalid("user_data")
    for entry in body.get("firewalls", ()):
        if entry["firewall"] not in project.firewalls:
            raise _invalid("firewalls")
    known = {key["name"] for key in project.keys.values()}
    if not {*body.get("ssh_keys", ())} <= known:
        raise _invalid("ssh_keys")
    for image in project.images.values():
        named = body["image"] in (str(image["id"]), image["name"])
        if named and image["architecture"] == kind["architecture"]:
            if image["disk_size"] > kind["disk"]:
                raise _invalid("image")
            return kind, place, image
    raise _invalid("image")


def _grouped(project: Project, body: Thing) -> int | None:
    number: int | None = body.get("placement_group")
    if number is not None:
        if number not in project.groups:
            raise _invalid("placement_group")
        members = [s for s in project.servers.values() if s["group"] == number]
        if len(members) >= _GROUP:
            raise Problem(422, "placement_error")
    return number


def _invalid(name: str) -> Problem:
    return Problem(422, "invalid_input", {"fields": [{"name": name, "messages": ["is wrong"]}]})


def _address(project: Project, server_id: int, family: str, place: str) -> int:
    number = project.new_id()
    project.addresses[number] = {
        "id": number,
        "name": f"primary_ip-{number}",
        "labels": {},
        "created": project.stamp(),
        "blocked": False,
        "location": location(place),
        "ip": f"192.0.2.{number % 250}" if family == "ipv4" else f"2001:db8:{number:x}::/64",
        "dns_ptr": [],
        "protection": {"delete": False},
        "type": family,
        "auto_delete": True,
        "assignee_type": "server",
        "assignee_id": server_id,
    }
    return number


def _status(project: Project, server: Thing) -> str:
    if server["off"]:
        return "off"
    age = project.clock() - server["begun"]
    if age >= project.start_seconds and server["name"] not in project.never_start:
        return "running"
    return "initializing" if age < project.start_seconds / 2 else "starting"


def shown(project: Project, server: Thing) -> Thing:
    """As the API shows a server."""
    public: Thing = {"floating_ips": [], "firewalls": []}
    for family, number in server["addresses"].items():
        address = project.addresses.get(number)
        pointer: Any = "" if family == "ipv4" else []
        public[family] = address and {
            "id": number,
            "ip": address["ip"],
            "blocked": False,
            "dns_ptr": pointer,
        }
    public["firewalls"] = [{"id": number, "status": "applied"} for number in server["firewalls"]]
    group = project.groups.get(server["group"]) if server["group"] else None
    return {
        "id": server["id"],
        "name": server["name"],
        "status": _status(project, server),
        "created": project.stamp(server["begun"]),
        "public_net": public,
        "private_net": [],
        "server_type": server["type"],
        "location": location(server["place"]) if server["place"] in LOCATIONS else None,
        "image": server["image"],
        "iso": None,
        "rescue_enabled": False,
        "locked": project.clock() < server["locked_until"],
        "backup_window": None,
        "outgoing_traffic": None,
        "ingoing_traffic": None,
        "included_traffic": 21990232555520,
        "protection": {"delete": server["protected"], "rebuild": False},
        "labels": server["labels"],
        "volumes": [],
        "load_balancers": [],
        "primary_disk_size": server["type"]["disk"],
        "placement_group": group,
    }
