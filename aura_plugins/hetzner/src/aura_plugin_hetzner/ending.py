"""Destroying: until Hetzner has nothing left of the machine that could be billed."""

from __future__ import annotations

from typing import Any

from aura_core.errors import ComputeError
from aura_plugin_hetzner.api import Api
from aura_plugin_hetzner.failures import Refused
from aura_plugin_hetzner.ours import MACHINE, OURS, SELECTOR, is_ours
from aura_plugin_hetzner.pace import Clock
from aura_plugin_hetzner.roster import Roster, Server
from aura_plugin_hetzner.settings import HetznerSettings

__all__ = ["Ending"]

_GONE_WITHIN = 90.0
_BUSY = frozenset({"locked", "conflict", "resource_in_use", "must_be_unassigned"})


class Ending:
    """One attempt of the compute's ``destroy``; each part may be repeated, and none is trusted to
    have been done before."""

    def __init__(
        self, *, api: Api, settings: HetznerSettings, roster: Roster, clock: Clock
    ) -> None:
        self._api = api
        self._settings = settings
        self._roster = roster
        self._clock = clock

    async def end(self, name: str) -> None:
        """Raises Refused, Lost and ComputeError; asked again it goes on where this ended."""
        found = await self._api.every("/servers", "servers", name=name)
        if found:
            await self._end_server(found[0])
        self._roster.gone(name)
        await self._free("/primary_ips", "primary_ips", name)
        if not self._settings.keep_snapshots:
            await self._free("/images", "images", name, type="snapshot")

    async def _end_server(self, server: Server) -> None:
        name = server["name"]
        if not is_ours(server):
            raise ComputeError(
                f"The Hetzner project has a server {name} that is not Aura's (no label "
                f"{SELECTOR}).",
                retryable=False,
                hint="Aura leaves it as it is. If it is the agent's, give it the label back.",
            )
        await self._claim_addresses(server)
        await self._delete(f"/servers/{server['id']}")
        await self._wait_until_gone(name)

    async def _claim_addresses(self, server: Server) -> None:
        """Labels the addresses that were made with the server, so that they are found by its name
        should they, or we, outlive it. Deleting a server detaches its addresses, and one that
        stays is billed. An address that somebody gave to the server (Hetzner would keep it:
        ``auto_delete`` is off) is theirs, and stays."""
        for family in ("ipv4", "ipv6"):
            address_id = (server["public_net"].get(family) or {}).get("id")
            if address_id is None:
                continue
            try:
                path = f"/primary_ips/{address_id}"
                address = (await self._api.call("GET", path))["primary_ip"]
                if address["auto_delete"] and not is_ours(address):
                    labels = {**address["labels"], **OURS, MACHINE: server["name"]}
                    await self._api.call("PUT", path, None, {"labels": labels})
            except Refused as error:
                if error.code != "not_found":
                    raise

    async def _wait_until_gone(self, name: str) -> None:
        latest = self._clock.monotonic() + _GONE_WITHIN
        seconds: float | None = 0.0  # nothing from before the request
        while await self._roster.find(name, seconds=seconds) is not None:
            if self._clock.monotonic() > latest:
                raise ComputeError(
                    f"The server {name} is still there {_GONE_WITHIN:.0f} seconds after Hetzner "
                    "was asked to delete it.",
                    retryable=True,
                )
            await self._clock.sleep(self._roster.fresh)
            seconds = None

    async def _free(self, path: str, what: str, name: str, **query: Any) -> None:
        selector = f"{SELECTOR},{MACHINE}={name}"
        for thing in await self._api.every(path, what, label_selector=selector, **query):
            await self._delete(f"{path}/{thing['id']}")

    async def _delete(self, path: str) -> None:
        try:
            await self._api.call("DELETE", path)
        except Refused as error:
            if error.code in _BUSY:
                # The budget of repeats is used up: the workflow comes back.
                raise ComputeError(
                    f"Hetzner is still at work on what belongs to this machine ({error.code}).",
                    retryable=True,
                ) from None
            if error.code != "not_found":
                raise
