"""The compute ``hetzner``: servers of one project of the Hetzner Cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Literal

from aura_core.compute import Machine, MachineRequest
from aura_plugin_hetzner.api import TIMEOUT, Api
from aura_plugin_hetzner.ending import Ending
from aura_plugin_hetzner.failures import Lost, Refused, meaning
from aura_plugin_hetzner.groups import SpreadGroups
from aura_plugin_hetzner.making import Making
from aura_plugin_hetzner.ours import check_name, checked_labels
from aura_plugin_hetzner.pace import Clock, LoopClock
from aura_plugin_hetzner.roster import Roster, Server
from aura_plugin_hetzner.settings import HetznerSettings
from aura_plugin_hetzner.surroundings import Surroundings

__all__ = ["HetznerCompute"]


class HetznerCompute:
    """Implements :class:`aura_core.compute.Compute`.

    A machine is the server of its name. Hetzner holds names unique within a project, which is what
    makes a request that was repeated, or whose answer was lost, harmless: whatever made the server,
    it is found by its name and adopted by its labels.
    """

    id = "hetzner"
    name = "Hetzner Cloud"

    def __init__(
        self,
        settings: HetznerSettings,
        *,
        clock: Clock | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        clock = clock or LoopClock()
        self._api = Api(settings, clock=clock, timeout=timeout, pool=pool)
        self._roster = Roster(self._api, clock=clock)
        self._surroundings = Surroundings(self._api, settings, clock=clock)
        self._groups = SpreadGroups(self._api, clock=clock)
        self._making = Making(
            api=self._api,
            settings=settings,
            roster=self._roster,
            surroundings=self._surroundings,
            groups=self._groups,
            clock=clock,
        )
        self._ending = Ending(api=self._api, settings=settings, roster=self._roster, clock=clock)

    async def create(self, request: MachineRequest) -> Machine:
        """See the contract. Answers when Hetzner says that the server runs; what it then does
        (cloud-init, joining) is not seen from here.

        A server that Hetzner could not start is removed before the error is raised.
        """
        check_name(request.name)
        labels = checked_labels(request.labels)
        async with self._asking("make the server"):
            return _machine(await self._making.make(request, labels))

    async def find(self, name: str) -> Machine | None:
        """See the contract. Of the last list of all servers, if that is fresh."""
        check_name(name)
        async with self._asking("list the servers"):
            server = await self._roster.find(name)
        return None if server is None else _machine(server)

    async def machines(self) -> list[Machine]:
        async with self._asking("list the servers"):
            servers = await self._roster.all()
        return [_machine(servers[name]) for name in sorted(servers)]

    async def destroy(self, name: str) -> None:
        """See the contract: the server, its addresses and, unless the operator keeps them, its
        snapshots; with the last machine the firewall and the placement groups."""
        check_name(name)
        async with self._asking("remove the server"):
            await self._ending.end(name)
            if not await self._roster.all():
                # One that is asked for at this moment has it made again.
                await self._surroundings.remove()
                await self._groups.remove()

    async def aclose(self) -> None:
        await self._api.aclose()

    @asynccontextmanager
    async def _asking(self, doing: str) -> AsyncIterator[None]:
        """Errors of the API become what the user can do about them."""
        try:
            yield
        except (Refused, Lost) as error:
            raise meaning(error, doing=doing) from None


_STATES: dict[str, Literal["starting", "running", "off"]] = {
    "running": "running",
    "off": "off",
    "stopping": "off",
    "deleting": "off",
}


def _machine(server: Server) -> Machine:
    address = (server["public_net"].get("ipv4") or {}).get("ip")
    return Machine(
        name=server["name"],
        external_id=f"hetzner:{server['id']}",
        state=_STATES.get(server["status"], "starting"),
        # Port 80: what is sent there is sealed and signed, and a machine has no name of its own.
        push_url=f"http://{address}" if address else None,
        created_at=datetime.fromisoformat(server["created"]),
    )
