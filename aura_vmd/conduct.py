"""What a heartbeat says of the agent's doing: what it used, and what it was refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura_vmd.metering import Metering
from aura_vmd.refusals import Refusals

__all__ = ["Conduct"]


class Conduct:
    """Puts the two reports together, and hands each its answer."""

    def __init__(self, *, meter: Metering, refusals: Refusals) -> None:
        self._meter = meter
        self._refusals = refusals

    def report(self) -> dict[str, Any]:
        """Fields of the heartbeat's body; those without content are left out."""
        found = {"usage": self._meter.report(), "refused": self._refusals.report()}
        return {name: value for name, value in found.items() if value}

    async def answered(self, report: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """The heartbeat with ``report`` was taken. Without this, the next one says it again."""
        self._meter.reported(report.get("usage", {}), answer.get("usage"))
        await self._refusals.taken(answer.get("refused_seen"))
