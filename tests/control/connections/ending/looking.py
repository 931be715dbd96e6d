"""What tests of ended connections ask of the control plane."""

from __future__ import annotations

from typing import Any

import pytest

from aura_control.db.connection import Connection
from tests.control.connections.conftest import Control

PATH = "/api/integrations/acme"

only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def pending(control: Control) -> int:
    async with control.services.database.reading() as tx:
        return len(await tx.revocations.of_tenant(control.ada.tenant_id))


async def revoked(control: Control, connection: Connection) -> None:
    """Makes what is due, and waits for it."""
    await control.services.revoker.attempt(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )


async def receipt(control: Control) -> dict[str, Any]:
    (line,) = await control.listed()
    found: Any = line["receipt"]
    return dict(found)
