"""What waits to be revoked is sealed, for that and for nothing else."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from aura_control.db.columns import Base
from tests.canaries import Allowed, Canaries
from tests.control.connections.conftest import Control
from tests.control.connections.ending.looking import PATH, only_sqlite, pending


@only_sqlite
async def test_nothing_of_it_opens_as_a_credential(control: Control) -> None:
    """What waits to be revoked is bound to that: put back as tokens, it does not open."""
    await control.connect()
    connection = await control.connection()
    secrets = await control.secrets()
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    async with control.services.database.reading() as tx:
        (row,) = await tx.revocations.of_tenant(control.ada.tenant_id)
        for secret in secrets.values():
            assert secret not in row.sealed
        opened = await control.services.vault.open_field(
            tx, row.tenant_id, connection.id, "revocation", row.revision, row.sealed
        )
        assert all(secret in opened for secret in secrets.values())
        for column in ("access_token", "refresh_token"):
            with pytest.raises(Exception, match="does not open"):
                await control.services.vault.open_field(
                    tx, row.tenant_id, connection.id, column, row.revision, row.sealed
                )


async def rows_of(control: Control) -> list[tuple[str, str]]:
    """Every value of every row, as the database answers it."""
    found = []
    async with control.services.database.reading() as tx:
        for name, table in Base.metadata.tables.items():
            for row in await tx.session.execute(select(table)):
                found += [(f"{name}.{key}", repr(value)) for key, value in row._mapping.items()]
                found += [
                    (f"{name}.{key}", value.hex())
                    for key, value in row._mapping.items()
                    if isinstance(value, bytes)
                ]
    return found


async def test_no_row_holds_a_secret(control: Control) -> None:
    """In use, while it waits to be revoked, and after; on both kinds of database."""
    reason = "it opens nothing without a master key, which is not in the database"
    canaries = Canaries(allowed=[Allowed(secret="salt *", place="tenants.kdf_salt", reason=reason)])
    async with control.services.database.reading() as tx:
        for number, tenant in enumerate(await tx.tenants.list()):
            assert tenant.kdf_salt is not None
            canaries.plant(f"salt {number}", tenant.kdf_salt)
    canaries.plant("API token", control.ada.token)
    canaries.plant("client secret", "the-client-secret")
    await control.connect()
    for name, value in (await control.secrets()).items():
        canaries.plant(name, value)
    for place, value in await rows_of(control):
        canaries.look(place, value)
    control.provider.revocable = False
    async with control.client(control.ada) as caller:
        await caller.delete(PATH)
    assert await pending(control) == 1
    for place, value in await rows_of(control):
        canaries.look(place, value)
    canaries.forbid()
