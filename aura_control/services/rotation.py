"""Sealing everything again under the newest master key, while the control plane serves.

Rows are taken in batches, in the order of their ids. A batch is one transaction: it locks its rows,
opens and seals each, and commits them with their audit entries. Nothing is remembered of how far
it got, because each row says itself what it is sealed under: a run that was killed is simply run
again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from aura_control.db.connection import Connection, SealedTokens
from aura_control.db.engine import Database
from aura_control.db.repositories.sealed import CONNECTIONS, PLACES, Place, SealedRow
from aura_control.db.transaction import Transaction
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.refusals import refuse
from aura_core.crypto import Identity, TenantKeys
from aura_core.errors import ConfigurationError, Conflict, EnvelopeError

__all__ = ["Rewrapped", "Rotation"]

_PASSES = 10
Row = TypeVar("Row", Connection, SealedRow)
Progress = Callable[[str, int], None]
"""(place, rows sealed again so far)"""


@dataclass(frozen=True, kw_only=True)
class Rewrapped:
    """What a run did: rows by place, and those that do not open under any key of the ring."""

    rows: Mapping[str, int]
    unreadable: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Count:
    done: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)


class Rotation:
    """One run over everything that is sealed. The caller sees to it that there is one at a time."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        progress: Progress = lambda place, rows: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        batch: int = 200,
    ) -> None:
        """``pause`` is called after each batch with the seconds that it took. SQLite has one
        writer, and those who wait for it ask from time to time: without a pause as long as the
        batch they would find it taken each time."""
        self._database = database
        self._vault = vault
        self._progress = progress
        self._pause = pause
        self._batch = batch

    async def rewrap(self) -> Rewrapped:
        """Seals everything under the active key.

        A process that has not noticed the new key yet may seal under the old one behind the place
        where the run is: so it is repeated until it finds nothing more to do. Raises Conflict when
        that does not end, because some process goes on with an old keyring.
        """
        count = _Count()
        for _ in range(_PASSES):
            before, count.unreadable = count.done.total(), Counter()
            await self._pages(CONNECTIONS, self._connections, count)
            for place in PLACES:
                await self._pages(place.name, _RowsOf(self, place), count)
            if count.done.total() == before:
                return Rewrapped(rows=dict(+count.done), unreadable=dict(+count.unreadable))
        raise Conflict(
            "Values go on being sealed under an older master key.",
            hint="A process has an old keyring: give it the present one, then run: "
            "aura keys rotate --resume",
        )

    async def _pages(
        self, name: str, batch: Callable[[str, _Count], Awaitable[str | None]], count: _Count
    ) -> None:
        after: str | None = ""
        while after is not None:
            began = time.monotonic()
            after = await batch(after, count)
            self._progress(name, count.done[name])
            if after is not None and self._database.dialect == "sqlite":
                await self._pause(time.monotonic() - began)

    async def _connections(self, after: str, count: _Count) -> str | None:
        refused: list[EnvelopeRefused] = []
        kid = self._vault.keyring.active
        async with self._database.transaction() as tx:
            found = await tx.sealed.connections([kid], under=False, after=after, limit=self._batch)
            done: list[tuple[Connection, SealedTokens]] = []
            for tenant_id, group in _by_tenant(found):
                keys = await self._keys(tx, tenant_id, 2 * len(group))
                for connection in group:
                    try:
                        done.append((connection, _tokens(keys, connection)))
                    except EnvelopeError as error:
                        refused.append(EnvelopeRefused(connection, error))
            if done:
                await tx.sealed.rewrap_connections(done, kid=kid)
        for one in refused:
            await refuse(self._database, self._vault, one)
        count.done[CONNECTIONS] += len(done)
        count.unreadable[CONNECTIONS] += len(refused)
        return found[-1].id if found else None

    async def rows(self, place: Place, after: str, count: _Count) -> str | None:
        """One batch of another place; the last key of it, or None at the end."""
        kid = self._vault.keyring.active
        async with self._database.transaction() as tx:
            found = await tx.sealed.rows(place, [kid], under=False, after=after, limit=self._batch)
            done: list[tuple[SealedRow, str]] = []
            for tenant_id, group in _by_tenant(found):
                keys = await self._keys(tx, tenant_id, len(group))
                for row in group:
                    try:
                        done.append((row, keys.rewrap(row.stored, place.identity(row))))
                    except EnvelopeError:
                        count.unreadable[place.name] += 1
            if done:
                await tx.sealed.rewrap_rows(place, done, kid=kid)
        count.done[place.name] += len(done)
        return found[-1].key if found else None

    async def _keys(self, tx: Transaction, tenant_id: str, count: int) -> TenantKeys:
        keys = await self._vault.sealing(tx, tenant_id, count=count)
        if keys.kid != self._vault.keyring.active:
            raise ConfigurationError("The keyring changed meanwhile.", hint="Run it again.")
        return keys


@dataclass(frozen=True)
class _RowsOf:
    rotation: Rotation
    place: Place

    async def __call__(self, after: str, count: _Count) -> str | None:
        return await self.rotation.rows(self.place, after, count)


def _by_tenant(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.tenant_id, []).append(row)
    return sorted(found.items())


def _tokens(keys: TenantKeys, connection: Connection) -> SealedTokens:
    stored = connection.envelope()

    def again(part: str, text: str | None) -> str | None:
        if text is None:
            return None
        return keys.rewrap(
            text,
            Identity(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                field=part,
                revision=connection.revision,
            ),
        )

    return SealedTokens(
        access_token=again("access_token", stored.access_token),
        refresh_token=again("refresh_token", stored.refresh_token),
    )
