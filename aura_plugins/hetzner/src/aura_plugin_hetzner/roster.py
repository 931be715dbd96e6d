"""All servers of ours, by one list for everybody who waits for one of them."""

from __future__ import annotations

from typing import Any

from aura_plugin_hetzner.api import Api
from aura_plugin_hetzner.kept import Kept
from aura_plugin_hetzner.ours import SELECTOR
from aura_plugin_hetzner.pace import Clock

__all__ = ["Roster", "Server"]

Server = dict[str, Any]
"""A server as the API answers it."""

_MOST_ACTIONS = 50  # in one question: ids stand in the address
_FRESH = 3.0
_PAGE = 50


class Roster:
    """Each server's last known state.

    Two hundred that wait for their machines cause the requests that one would: a list serves all
    who asked before it came, and is good for a few seconds. What this process did itself is known
    at once, and stays known until a list that was asked for later says otherwise.
    """

    def __init__(self, api: Api, *, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._list = Kept(self._fetch, clock=clock)
        self._own: dict[str, tuple[float, Server | None]] = {}
        self._size = 0
        self._followed: dict[int, dict[str, Any]] = {}
        self._actions = Kept(self._fetch_actions, clock=clock)

    @property
    def fresh(self) -> float:
        """Seconds for which a list is good, and after which it is worth looking again: three for
        each page that it takes, so that looking costs a third of what comes back meanwhile."""
        return _FRESH * max(1, -(-self._size // _PAGE))

    async def all(self, *, seconds: float | None = None) -> dict[str, Server]:
        """The servers by name, as of at most ``seconds`` (else :attr:`fresh`) before this call."""
        servers = dict(await self._list.get(seconds=self.fresh if seconds is None else seconds))
        for name, (_, server) in self._own.items():
            servers.pop(name, None)
            if server is not None:
                servers[name] = server
        return servers

    async def find(self, name: str, *, seconds: float | None = None) -> Server | None:
        return (await self.all(seconds=seconds)).get(name)

    def made(self, server: Server) -> None:
        """This process made, started or adopted it just now."""
        self._own[server["name"]] = (self._clock.monotonic(), server)

    def gone(self, name: str) -> None:
        """This process saw that there is none of that name."""
        self._own[name] = (self._clock.monotonic(), None)

    async def action(self, action_id: int, *, seconds: float) -> dict[str, Any]:
        """How an action that is followed stands; all that are followed are asked for at once."""
        await self._actions.get(seconds=seconds)
        return self._followed[action_id]

    def follow(self, action_id: int) -> None:
        """Somebody waits for this action."""
        self._followed[action_id] = {"id": action_id, "status": "running"}

    def unfollow(self, action_id: int) -> None:
        self._followed.pop(action_id, None)

    async def _fetch(self) -> dict[str, Server]:
        begun = self._clock.monotonic()
        servers = await self._api.every("/servers", "servers", label_selector=SELECTOR)
        # Only now: while the list was on its way, what we know ourselves was newer than the last.
        self._own = {name: known for name, known in self._own.items() if known[0] >= begun}
        self._size = len(servers)
        return {server["name"]: server for server in servers}

    async def _fetch_actions(self) -> bool:
        open_ = [key for key, action in self._followed.items() if _is_open(action)]
        for first in range(0, len(open_), _MOST_ACTIONS):
            ids = open_[first : first + _MOST_ACTIONS]
            answer = await self._api.call("GET", "/actions", {"id": ids})
            for action in answer["actions"]:
                if action["id"] in self._followed:
                    self._followed[action["id"]] = action
        return True


def _is_open(action: dict[str, Any]) -> bool:
    return bool(action["status"] == "running")
