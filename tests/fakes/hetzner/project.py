"""One Hetzner project: what is in it, what it costs to ask, and what goes wrong on purpose."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

__all__ = ["Fault", "Problem", "Project"]

Thing = dict[str, Any]
_EPOCH = datetime(2026, 11, 1, tzinfo=UTC)


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, details: Thing | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.details = details


@dataclass(kw_only=True)
class Fault:
    """Goes wrong ``times`` times for a method and path (as described, ``/servers/{id}``).

    With a ``status`` that and ``code`` are the answer; without one it is never answered. ``done``
    says whether it was carried out all the same.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    code: str = ""
    done: bool = False


@dataclass(kw_only=True)
class Project:
    """Everything in it, by id. ``clock`` answers seconds."""

    clock: Callable[[], float]
    token: str = "a-token-of-the-project"
    read_only: bool = False
    hourly: int = 3600
    most_servers: int = 1000
    start_seconds: float = 12.0
    sold_out: set[tuple[str, str]] = field(default_factory=set)
    action_errors: dict[str, str] = field(default_factory=dict)
    """By the server's name: the code with which the action that makes it ends."""
    never_start: set[str] = field(default_factory=set)
    addresses_stay: bool = False
    """Deleting a server leaves its addresses behind, whatever they say."""
    faults: list[Fault] = field(default_factory=list)
    boot: Callable[[Thing], None] = lambda server: None
    """Called with each new server, in the thread of the fake."""

    servers: dict[int, Thing] = field(default_factory=dict)
    addresses: dict[int, Thing] = field(default_factory=dict)
    firewalls: dict[int, Thing] = field(default_factory=dict)
    groups: dict[int, Thing] = field(default_factory=dict)
    images: dict[int, Thing] = field(default_factory=dict)
    keys: dict[int, Thing] = field(default_factory=dict)
    actions: dict[int, Thing] = field(default_factory=dict)
    types: list[Thing] = field(default_factory=list)
    pricing: Thing = field(default_factory=dict)

    calls: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    """What Hetzner's description does not allow, in requests and answers."""
    most_servers_seen: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._ids = count(1001)
        self._left = float(self.hourly)
        self._counted_at = self.clock()

    @property
    def books(self) -> dict[str, int]:
        """How many there are of what is billed or stays behind."""
        return {
            "servers": len(self.servers),
            "addresses": len(self.addresses),
            "firewalls": len(self.firewalls),
            "groups": len(self.groups),
            "images": len(self.images),
        }

    def new_id(self) -> int:
        return next(self._ids)

    def stamp(self, at: float | None = None) -> str:
        moment = _EPOCH + timedelta(seconds=self.clock() if at is None else at)
        return moment.isoformat().replace("+00:00", "Z")

    def add_image(self, name: str | None, **changes: Any) -> int:
        """A snapshot, unless the changes say otherwise; its id."""
        number = self.new_id()
        self.images[number] = {
            "id": number,
            "type": "snapshot",
            "status": "available",
            "name": name,
            "description": "",
            "image_size": 1.5,
            "disk_size": 10,
            "created": self.stamp(),
            "created_from": None,
            "bound_to": None,
            "os_flavor": "debian",
            "os_version": "12",
            "rapid_deploy": True,
            "protection": {"delete": False},
            "deprecated": None,
            "deleted": None,
            "labels": {},
            "architecture": "x86",
            **changes,
        }
        return number

    def charge(self) -> dict[str, str]:
        """Counts a request; the headers that every answer has. Raises Problem beyond the limit."""
        now = self.clock()
        gained = (now - self._counted_at) * self.hourly / 3600
        self._left = min(float(self.hourly), self._left + gained)
        self._counted_at = now
        if self._left < 1:
            self.refused += 1
            raise Problem(429, "rate_limit_exceeded")
        self._left -= 1
        return self.headers()

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.hourly),
            "RateLimit-Remaining": str(int(self._left)),
            "RateLimit-Reset": str(int(now_of(self) + self.hourly - self._left)),
        }

    def spend(self, requests: int) -> None:
        """Somebody else asks that often."""
        self._left -= requests

    def fault(self, method: str, template: str) -> Fault | None:
        for fault in self.faults:
            if (fault.method, fault.path) == (method, template) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def action(
        self, command: str, server_id: int, *, seconds: float, error: str | None = None
    ) -> Thing:
        number = self.new_id()
        made = {
            "id": number,
            "command": command,
            "begun": self.clock(),
            "seconds": seconds,
            "error": error,
            "server": server_id,
        }
        self.actions[number] = made
        return self.shown_action(made)

    def shown_action(self, action: Thing) -> Thing:
        end = action["begun"] + action["seconds"]
        over = self.clock() >= end
        failed = over and action["error"] is not None
        return {
            "id": action["id"],
            "command": action["command"],
            "status": "running" if not over else "error" if failed else "success",
            "started": self.stamp(action["begun"]),
            "finished": self.stamp(end) if over else None,
            "progress": 100 if over else 50,
            "resources": [{"id": action["server"], "type": "server"}],
            "error": {"code": action["error"], "message": "It failed."} if failed else None,
        }


def now_of(project: Project) -> float:
    return _EPOCH.timestamp() + project.clock()
