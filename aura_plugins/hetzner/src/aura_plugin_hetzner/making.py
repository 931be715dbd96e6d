"""Making a server, or adopting the one that is there, until it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aura_core.compute import MachineRequest
from aura_core.errors import ComputeError
from aura_plugin_hetzner.api import Api
from aura_plugin_hetzner.failures import Lost, Refused
from aura_plugin_hetzner.groups import SpreadGroups
from aura_plugin_hetzner.offers import Offer
from aura_plugin_hetzner.ours import SELECTOR, is_ours
from aura_plugin_hetzner.pace import Clock
from aura_plugin_hetzner.roster import Roster, Server
from aura_plugin_hetzner.settings import HetznerSettings
from aura_plugin_hetzner.surroundings import Surroundings

__all__ = ["Making"]

_AT_ONCE = 8
_SOLD_OUT_FOR = 60.0
_STARTED_WITHIN = 180.0
"""A server runs after 10 to 20 seconds; a step of a workflow may take 300."""
_ACTION_AFTER = 15.0
_NO_STOCK = frozenset({"resource_unavailable", "placement_error"})
_STALE = frozenset({"invalid_input", "not_found"})
"""What the API says when the request names a firewall, key or image that is gone."""


class Making:
    """One attempt of the compute's ``create``."""

    def __init__(
        self,
        *,
        api: Api,
        settings: HetznerSettings,
        roster: Roster,
        surroundings: Surroundings,
        groups: SpreadGroups,
        clock: Clock,
    ) -> None:
        self._api = api
        self._settings = settings
        self._roster = roster
        self._surroundings = surroundings
        self._groups = groups
        self._clock = clock
        self._sold_out: dict[tuple[str, str], float] = {}
        self._ordering = asyncio.Semaphore(_AT_ONCE)

    async def make(self, request: MachineRequest, labels: Mapping[str, str]) -> Server:
        """The running server. Raises Refused, Lost and ComputeError."""
        action: int | None = None
        server = await self._roster.find(request.name)
        if server is None:
            server, action = await self._ask(request, labels)
        _check_ours(server, labels)
        self._roster.made(server)
        return await self._running(server, action)

    async def _ask(
        self, request: MachineRequest, labels: Mapping[str, str]
    ) -> tuple[Server, int | None]:
        """The server and the action that makes it; no action for one that was there."""
        shelf = await self._surroundings.shelf()
        offers = shelf.offers(self._settings, region=request.region, size=request.size)
        for again in (True, False):
            for offer in offers:
                try:
                    # What just was sold out is not asked for again at once: of two hundred that
                    # are to be made together, the first few find out for all.
                    async with self._ordering:
                        if self._is_sold_out(offer):
                            continue
                        return await self._order(request, labels, offer)
                except Refused as error:
                    if error.code in _NO_STOCK:
                        self._note_sold_out(offer.type, offer.location)
                    elif error.code in _STALE and again:
                        self._surroundings.forget()
                        self._groups.forget()
                        break
                    else:
                        raise
            else:
                break
        raise ComputeError(
            f"Hetzner has no server in stock. Tried: {', '.join(map(str, offers))}.",
            retryable=True,
            hint="Try again later, add types to AURA_HETZNER_TYPES, raise the price ceiling, or "
            "choose another region.",
        )

    async def _order(
        self, request: MachineRequest, labels: Mapping[str, str], offer: Offer
    ) -> tuple[Server, int | None]:
        body = {
            "name": request.name,
            "labels": dict(labels),
            "user_data": request.user_data,
            "server_type": offer.type,
            "location": offer.location,
            "image": await self._surroundings.image(offer),
            "start_after_create": True,
            **await self._surroundings.body(),
        }
        if self._settings.spread:
            body["placement_group"] = await self._groups.take()
        try:
            answer = await self._api.call("POST", "/servers", None, body)
        except Refused as error:
            if error.code != "uniqueness_error":
                raise
        except Lost:
            # It may have been made, or be made yet. If it is there it is ours; if not, the workflow
            # asks again later, and should both requests come to something, the name is unique.
            server = await self._named(request.name)
            if server is None:
                raise
            return server, None
        else:
            return answer["server"], int(answer["action"]["id"])
        server = await self._named(request.name)
        if server is None:
            raise Lost("POST /servers", code="uniqueness_error")
        return server, None

    async def _named(self, name: str) -> Server | None:
        found = await self._api.every("/servers", "servers", name=name)
        return found[0] if found else None

    async def _running(self, server: Server, action: int | None) -> Server:
        """Waits until it runs, by the list that all who wait share. One that is off, and that no
        action of ours is about to start, is started."""
        name, latest = server["name"], self._clock.monotonic() + _STARTED_WITHIN
        ask_again = self._clock.monotonic() + _ACTION_AFTER
        if action is not None:
            self._roster.follow(action)
        try:
            while server["status"] != "running":
                now = self._clock.monotonic()
                if now > latest:
                    raise _too_slow(name)
                if server["status"] == "off" and action is None:
                    path = f"/servers/{server['id']}/actions/poweron"
                    action = int((await self._api.call("POST", path))["action"]["id"])
                    self._roster.follow(action)
                await self._clock.sleep(self._roster.fresh)
                known = await self._roster.find(name)
                if action is not None and (known is None or now > ask_again):
                    ask_again = now + _ACTION_AFTER
                    await self._check_action(server, action, seconds=0.0 if known is None else 5.0)
                if known is None:
                    raise ComputeError(
                        f"The server {name} was removed at Hetzner while it was made.",
                        retryable=True,
                    )
                server = known
        finally:
            if action is not None:
                self._roster.unfollow(action)
        return server

    async def _check_action(self, server: Server, action: int, *, seconds: float) -> None:
        """Raises ComputeError, after it has removed what there is, if the action failed."""
        known = await self._roster.action(action, seconds=seconds)
        if known["status"] != "error":
            return
        code = str((known.get("error") or {}).get("code", "unknown"))
        try:
            await self._api.call("DELETE", f"/servers/{server['id']}")
        except Refused as error:
            if error.code != "not_found":
                raise
        self._roster.gone(server["name"])
        if code in _NO_STOCK:
            self._note_sold_out(server["server_type"]["name"], server["location"]["name"])
        raise ComputeError(f"Hetzner could not start the server ({code[:64]}).", retryable=True)

    def _is_sold_out(self, offer: Offer) -> bool:
        until = self._sold_out.get((offer.type, offer.location))
        return until is not None and self._clock.monotonic() < until

    def _note_sold_out(self, type_name: str, location: str) -> None:
        self._sold_out[type_name, location] = self._clock.monotonic() + _SOLD_OUT_FOR


def _check_ours(server: Server, labels: Mapping[str, str]) -> None:
    if is_ours(server, labels):
        return
    if is_ours(server):
        reason = "it is another agent's"
    else:
        reason = f"it is not Aura's (no label {SELECTOR})"
    raise ComputeError(
        f"The Hetzner project has a server {server['name']} already, and {reason}.",
        retryable=False,
        hint="Aura leaves it as it is. Rename or remove it, or give Aura a project of its own.",
    )


def _too_slow(name: str) -> ComputeError:
    return ComputeError(
        f"The server {name} did not start within {_STARTED_WITHIN:.0f} seconds.",
        retryable=False,
        hint="Aura removes it. If this happens again, status.hetzner.com may say why.",
    )
