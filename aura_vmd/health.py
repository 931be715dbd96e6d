"""The machine's state, in numbers and without secrets."""

from __future__ import annotations

import asyncio
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aura_core import __version__
from aura_core.runtime import Readiness
from aura_vmd.holdings import Holdings
from aura_vmd.inbox import Inbox
from aura_vmd.runtime import probe
from aura_vmd.skills import Skills
from aura_vmd.store import Store

__all__ = ["Health"]


class Health:
    """Puts the report together. ``root`` is where the machine's files lie."""

    def __init__(
        self,
        *,
        root: Path,
        disk: Path,
        readiness: Readiness | None,
        holdings: Holdings,
        store: Store,
        skills: Skills,
        inbox: Inbox,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._root = root
        self._disk = disk
        self._readiness = readiness
        self._holdings = holdings
        self._store = store
        self._skills = skills
        self._inbox = inbox
        self._now = now
        self._began = time.monotonic()

    async def report(self) -> Mapping[str, Any]:
        """Load (1, 5, 15 minutes), memory and disk in bytes, times in seconds."""
        machine, runtime = await asyncio.gather(
            asyncio.to_thread(self._machine), probe(self._readiness, root=self._root)
        )
        return {
            **machine,
            "runtime": runtime,
            "credentials": self._credentials(),
            "skills": dict(self._skills.installed),
            "store": {
                "damaged": list(self._store.damaged),
                "conflicts": self._inbox.conflicts,
                "skills_failing": list(self._skills.failing),
            },
            "version": __version__,
            "python": platform.python_version(),
            "uptime_seconds": round(time.monotonic() - self._began),
        }

    def _credentials(self) -> dict[str, Any]:
        now = self._now()
        return {
            held.payload.provider: {
                "state": "expired" if held.is_expired(now) else "usable",
                "revision": held.revision,
                "expires_at": held.payload.expires_at and held.payload.expires_at.isoformat(),
            }
            for held in self._holdings
        }

    def _machine(self) -> dict[str, Any]:
        disk = shutil.disk_usage(self._disk)
        return {
            "load": _load(),
            "memory": _memory(),
            "disk": {"total": disk.total, "free": disk.free},
        }


def _load() -> list[float]:
    """proc_loadavg(5); empty where the unit hides it."""
    try:
        return [float(n) for n in Path("/proc/loadavg").read_text().split()[:3]]
    except (OSError, ValueError):
        return []


def _memory() -> dict[str, int]:
    """``MemTotal`` and ``MemAvailable`` of proc_meminfo(5), in bytes; empty where it is hidden."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        return {"total": found["MemTotal"] * 1024, "available": found["MemAvailable"] * 1024}
    except (OSError, ValueError, KeyError, IndexError):
        return {}
