"""Counting seals: random nonces are safe for a bounded number of uses of a key, by all processes.

Each process reserves a number of seals ahead in ``tenant_keys.uses`` and then spends them without
writing. The recorded count is therefore never less than what was made. It is more by what ended
processes had left, which the small first reservations keep small.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from sqlalchemy import event
from sqlalchemy.orm import Session

from aura_control.db.repositories.tenants import KeyRecord
from aura_control.db.transaction import Transaction
from aura_core.crypto import TenantKeys

__all__ = ["Seals"]

_FIRST = 16
_MOST = 1000
_Left = dict[tuple[str, str], int]


class Seals:
    """The seals that this process has reserved and not made yet."""

    def __init__(self) -> None:
        self._left: _Left = {}

    async def take(
        self, tx: Transaction, keys: TenantKeys, recorded: Mapping[str, KeyRecord], count: int
    ) -> None:
        """Accounts for ``count`` seals that the transaction is about to make under the active key.

        The first ones record what the key commits to (see ``TenantKeys.check``). Raises
        ``KeyMissing`` where another process recorded another commitment.
        """
        place = (keys.tenant_id, keys.kid)
        mine: _Left = tx.session.info.setdefault("seals", {})
        # A key without a record was never reserved from: its first seal writes the commitment.
        for left in (mine, self._left if keys.kid in recorded else {}):
            if left.get(place, 0) >= count:
                left[place] -= count
                return
        known = recorded.get(keys.kid)
        ahead = min(_MOST, max(_FIRST, 0 if known is None else known.uses))
        record = await tx.tenants.reserve_uses(
            keys.tenant_id, kid=keys.kid, commitment=keys.commitment, count=count + ahead
        )
        keys.check({keys.kid: record.commitment})
        if not mine:
            # Only a commit makes a reservation; a rolled-back one is nobody's.
            event.listen(
                tx.session.sync_session, "after_commit", partial(self._keep, mine), once=True
            )
        mine[place] = mine.get(place, 0) + ahead

    def _keep(self, mine: _Left, _session: Session) -> None:
        for place, left in mine.items():
            self._left[place] = self._left.get(place, 0) + left
        mine.clear()
