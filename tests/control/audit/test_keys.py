"""The key of a chain outlives every master key, and nothing but its tenant's row opens it."""

from __future__ import annotations

import pytest
from sqlalchemy import text, update

from aura_control.db.chain import AuditState
from aura_control.db.engine import Database
from aura_control.db.models import Tenant
from aura_control.services.keys import Vault
from aura_core.crypto import Keyring, envelope_kid
from aura_core.encoding import unb64url
from aura_core.errors import EnvelopeError
from aura_core.wire import ControlKeys

FIELD = ("t", "t", "audit_key", 0)
"""Tenant, identity, field and revision, as of any sealed value."""


async def _opened(url: str, ring: Keyring) -> tuple[Vault, Database]:
    vault = Vault(ring, ControlKeys.generate())
    return vault, Database.open(url, audit_key=vault.audit_key)


async def test_a_chain_survives_the_end_of_the_master_key_it_began_under(url: str) -> None:
    ring = Keyring.generate()
    vault, database = await _opened(url, ring)
    async with database.transaction() as tx:
        await tx.tenants.create(tenant_id="t", name="", kdf_salt=bytes(32), actor="system")
        key = await tx.audit.key("t")
    await database.close()

    ring = ring.rotate()
    vault, database = await _opened(url, ring)
    async with database.transaction() as tx:
        stored = (await tx.tenants.get("t")).audit_key
        assert stored is not None
        assert envelope_kid(stored) == "m1"
        opened = await vault.open_field(tx, *FIELD, stored)
        assert len(unb64url(opened)) == 32
        sealed = await vault.seal_field(tx, *FIELD, opened)
        await tx.session.execute(update(Tenant).values(audit_key=sealed))
    await database.close()

    vault, database = await _opened(url, ring.destroy("m1"))
    async with database.transaction() as tx:
        assert await tx.audit.key("t") == key
        await tx.audit.append("t", action="x", actor="system", target="x")
    async with database.reading() as tx:
        verdict = await tx.audit.verify("t")
    await database.close()
    assert (verdict.state, verdict.entries) == (AuditState.WHOLE, 2)


async def test_each_tenant_has_its_own(url: str) -> None:
    _, database = await _opened(url, Keyring.generate())
    async with database.transaction() as tx:
        for tenant_id in ("t", "u"):
            await tx.tenants.create(
                tenant_id=tenant_id, name="", kdf_salt=bytes(32), actor="system"
            )
        assert await tx.audit.key("t") != await tx.audit.key("u")
    async with database.transaction() as tx:
        other = (await tx.tenants.get("u")).audit_key
        await tx.session.execute(
            text("UPDATE tenants SET audit_key = :k WHERE id = 't'"), {"k": other}
        )
    with pytest.raises(EnvelopeError):
        async with database.transaction() as tx:
            await tx.audit.append("t", action="x", actor="system", target="x")
    await database.close()


async def test_without_the_salt_it_is_closed(url: str) -> None:
    _, database = await _opened(url, Keyring.generate())
    async with database.transaction() as tx:
        await tx.tenants.create(tenant_id="t", name="", kdf_salt=bytes(32), actor="system")
    async with database.transaction() as tx:
        await tx.tenants.shred("t", actor="system")
    async with database.reading() as tx:
        assert await tx.audit.key("t") is None
    await database.close()
