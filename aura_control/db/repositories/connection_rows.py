"""The two rows of a connection, read and written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, select, update

from aura_control.db.columns import milliseconds
from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionStatus, Integration
from aura_control.db.repositories.base import Repository
from aura_core.errors import NotFound

__all__ = ["ConnectionRows"]

Rows = Select[Integration, ConnectionStatus]


class ConnectionRows(Repository):
    """Reading connections, and writing one if it is still what the writer believes it to be."""

    async def get(self, *, tenant_id: str, user_id: str, provider: str) -> Connection | None:
        """The user's connection to a provider, a disconnected one too."""
        return await self._connection(
            self._rows(tenant_id).where(
                Integration.user_id == user_id, Integration.provider == provider
            )
        )

    async def by_id(self, *, tenant_id: str, connection_id: str) -> Connection:
        """Raises NotFound."""
        found = await self.find(tenant_id=tenant_id, connection_id=connection_id)
        if found is None:
            raise NotFound("There is no such connection.")
        return found

    async def find(self, *, tenant_id: str, connection_id: str) -> Connection | None:
        """:meth:`by_id`, where there may be none."""
        return await self._connection(self._rows(tenant_id).where(Integration.id == connection_id))

    def next_revision(self, previous: int) -> int:
        """The revision that a new envelope gets after ``previous``."""
        return max(previous + 1, milliseconds(self._now))

    def _rows(self, tenant_id: str | None = None) -> Rows:
        """All connections, or a tenant's: ``integrations`` itself does not say whose it is."""
        query = select(Integration, ConnectionStatus).join(
            ConnectionStatus, ConnectionStatus.integration_id == Integration.id
        )
        return query if tenant_id is None else query.where(ConnectionStatus.tenant_id == tenant_id)

    async def _connections(self, query: Rows) -> Sequence[Connection]:
        rows = await self._session.execute(query, execution_options={"populate_existing": True})
        return [Connection.of(*row) for row in rows]

    async def _connection(self, query: Rows) -> Connection | None:
        found = await self._connections(query)
        return found[0] if found else None

    async def _replace(
        self,
        tenant_id: str,
        connection_id: str,
        expected_revision: int,
        *,
        row: Mapping[str, Any],
        status: Mapping[str, Any],
    ) -> bool:
        """Writes both rows if the revision is still the expected one; False: nothing happened."""
        current = await self._changed(
            update(ConnectionStatus)
            .where(
                ConnectionStatus.integration_id == connection_id,
                ConnectionStatus.tenant_id == tenant_id,
                ConnectionStatus.revision == expected_revision,
            )
            .values(**status, updated_at=self._now)
        )
        return current and await self._changed(
            update(Integration)
            .where(Integration.id == connection_id)
            .values(**row, updated_at=self._now)
        )

    async def _announce(
        self,
        tenant_id: str,
        connection_id: str,
        kind: str,
        *,
        reason: str | None = None,
    ) -> Connection:
        """The event for those who watch: ``kind`` says how the connection is now, or that it was
        refreshed. Every change of a connection's state comes through here; answers it."""
        connection = await self.by_id(tenant_id=tenant_id, connection_id=connection_id)
        self._journal.publish(
            tenant_id,
            user_id=connection.user_id,
            kind=f"connection.{kind}",
            data={
                "connection_id": connection_id,
                "provider": connection.provider,
                "state": connection.state.value,
                "reason": reason,
                "revision": connection.revision,
            },
        )
        return connection

    async def _audit(
        self, tenant_id: str, connection_id: str, action: str, actor: str, **metadata: Any
    ) -> None:
        await self._journal.audit(
            tenant_id,
            action=action,
            actor=actor,
            target=f"connection:{connection_id}",
            metadata=metadata,
        )
