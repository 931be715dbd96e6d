"""Placement groups: servers of one group stand on different hosts, at most ten of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import Any

from aura_plugin_hetzner.api import Api
from aura_plugin_hetzner.failures import Refused
from aura_plugin_hetzner.kept import Kept
from aura_plugin_hetzner.ours import OURS, SELECTOR
from aura_plugin_hetzner.pace import Clock

__all__ = ["SpreadGroups"]

_LARGEST = 10
"""Servers in a group of the type ``spread`` (docs.hetzner.com, Placement Groups, Limits)."""
_FRESH = 60.0
_BUSY = frozenset({"resource_in_use", "not_found", "conflict", "locked"})


class SpreadGroups:
    """Groups named ``aura-spread-<n>``, filled one after the other."""

    def __init__(self, api: Api, *, clock: Clock) -> None:
        self._api = api
        self._line = asyncio.Lock()
        self._taken: Counter[int] = Counter()
        self._groups = Kept(self._fetch, clock=clock)

    async def take(self) -> int:
        """The id of a group with room for one more, which is then counted as taken."""
        async with self._line:
            groups = await self._groups.get(seconds=_FRESH)
            for group in groups:
                if len(group["servers"]) + self._taken[group["id"]] < _LARGEST:
                    break
            else:
                group = await self._make({group["name"] for group in groups})
                groups.append(group)
            self._taken[group["id"]] += 1
            return int(group["id"])

    def forget(self) -> None:
        self._groups.forget()

    async def remove(self) -> None:
        """Frees the groups, after the last machine."""
        self._groups.forget()
        for group in await self._fetch():
            try:
                await self._api.call("DELETE", f"/placement_groups/{group['id']}")
            except Refused as error:
                if error.code not in _BUSY:
                    raise

    async def _make(self, names: set[str]) -> dict[str, Any]:
        for number in count(1):
            name = f"aura-spread-{number}"
            if name in names:
                continue
            body = {"name": name, "labels": OURS, "type": "spread"}
            try:
                answer = await self._api.call("POST", "/placement_groups", None, body)
            except Refused as error:
                # Another process's, or one without our label: the next number then.
                if error.code != "uniqueness_error":
                    raise
                continue
            return dict(answer["placement_group"])
        raise AssertionError("numbers do not end")

    async def _fetch(self) -> list[dict[str, Any]]:
        groups = await self._api.every(
            "/placement_groups", "placement_groups", label_selector=SELECTOR
        )
        self._taken.clear()
        return sorted(groups, key=lambda group: int(group["id"]))
