"""The background task that deletes audit entries older than their tenants keep."""

from __future__ import annotations

import asyncio

from aura_control.db.engine import Database
from aura_control.logs import get_logger
from aura_core.errors import EnvelopeError

__all__ = ["Pruner"]

_log = get_logger(__name__)

_EVERY = 300.0
_TENANTS = 100
_BATCH = 1000
"""Entries of one transaction. On SQLite others write meanwhile only between two of them, so one
takes some fifty milliseconds and not the minute that a million entries take."""


class Pruner:
    """One per process; ``run`` until ``close``."""

    def __init__(self, *, database: Database, every: float = _EVERY, batch: int = _BATCH) -> None:
        """``every``: seconds between two looks; a tenant is due once a day at most."""
        self._database = database
        self._every = every
        self._batch = batch
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Prunes until ``close``; a failure is logged and does not end it."""
        while not self._ended.is_set():
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the next sweep may succeed
                _log.exception("pruning_failed")
            try:
                async with asyncio.timeout(self._every):
                    await self._ended.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Begins nothing new; ``run`` returns after what is under way."""
        self._ended.set()

    async def sweep(self) -> int:
        """Deletes all that may go now; answers how many entries."""
        deleted = 0
        while not self._ended.is_set():
            async with self._database.reading() as tx:
                due = await tx.retention.due(limit=_TENANTS)
            for tenant_id in due:
                try:
                    deleted += await self._prune(tenant_id)
                except Exception:  # noqa: BLE001 - rows can be made to raise anything
                    # Those that are due after it must not keep their entries because of it.
                    _log.exception("pruning_failed", tenant_id=tenant_id)
                    await self._put_off(tenant_id)
            if len(due) < _TENANTS:
                break
        return deleted

    async def _prune(self, tenant_id: str) -> int:
        deleted = 0
        try:
            while not self._ended.is_set():
                async with self._database.transaction() as tx:
                    step = await tx.retention.prune(tenant_id, limit=self._batch)
                deleted += step.deleted
                if step.done:
                    break
        except EnvelopeError as error:
            # A closed log stays as it is. Any other says that the log was tampered with: what is
            # there is evidence, and looked at again tomorrow.
            _log.warning("not_pruned", tenant_id=tenant_id, reason=error.message)
            await self._put_off(tenant_id)
        return deleted

    async def _put_off(self, tenant_id: str) -> None:
        async with self._database.transaction() as tx:
            await tx.retention.put_off(tenant_id)
