"""Numbers for the operator, over all tenants."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, or_, select

from aura_control.db.models import ConnectionState, ConnectionStatus, Delivery
from aura_control.db.repositories.base import Repository

__all__ = ["Gauges"]


class Gauges(Repository):
    """Counts of what there is now."""

    async def connections(self) -> Mapping[ConnectionState, int]:
        """How many connections are in each state."""
        query = select(ConnectionStatus.state, func.count().label("number")).group_by(
            ConnectionStatus.state
        )
        found = {row.state: row.number for row in await self._session.execute(query)}
        return {state: found.get(state, 0) for state in ConnectionState}

    async def pending_deliveries(self) -> int:
        """How many deliveries no machine has acknowledged yet."""
        query = select(func.count()).where(
            or_(
                Delivery.acked_revision.is_(None),
                Delivery.acked_revision < Delivery.desired_revision,
            )
        )
        return (await self._session.execute(query)).scalar_one()
