"""Deleting a tenant: access ends at once, then everything outside, and last the salt.

The operator's wish is one column of ``tenants``. Whichever control plane runs carries it out, and
looks again from time to time until nothing is left: whoever is killed on the way, the next look
goes on from what the database says. The order matters: machines and tokens are ended while they can
still be named and audited, and the salt goes when nothing needs it any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aura_control.db.models import ConnectionState, Tenant
from aura_control.db.models import InstanceState as S
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.services.agents import DESTROYABLE, mark_destroying, start_destroying
from aura_control.services.connections import view_of
from aura_control.services.disconnect import end_use, tell
from aura_control.services.receipts import receipt_of
from aura_core.errors import AuraError

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["OPERATOR", "Progress", "TenantRemover", "progress_of"]

_log = get_logger(__name__)

OPERATOR = "operator"
"""How the audit log names who deletes a tenant."""

_LOOKS_EVERY = 1.0
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is left of a tenant that is being deleted."""

    machines: int
    connections: int
    revocations: int
    """Connections whose tokens are not revoked yet."""
    shredded: bool

    @property
    def ready(self) -> bool:
        """Whether the salt may go."""
        return not (self.machines or self.connections or self.revocations)


async def progress_of(tx: Transaction, tenant: Tenant) -> Progress:
    """How far the deletion is."""
    instances = await tx.instances.of_tenant(tenant.id)
    pending = await tx.revocations.of_tenant(tenant.id)
    connections = [
        connection
        for user in await tx.users.list(tenant_id=tenant.id)
        for connection in await tx.integrations.list(tenant_id=tenant.id, user_id=user.id)
    ]
    return Progress(
        machines=sum(instance.state is not S.DESTROYED for instance in instances),
        connections=sum(one.state is not ConnectionState.DISCONNECTED for one in connections),
        revocations=len({row.connection_id for row in pending}),
        shredded=tenant.kdf_salt is None,
    )


class TenantRemover:
    """A background task: ``run`` until ``close``."""

    def __init__(self, services: Services, *, every: float = _LOOKS_EVERY) -> None:
        """``every``: seconds between two looks for a wish that another process wrote down."""
        self._services = services
        self._every = every
        self._stop = asyncio.Event()
        self._erases_at = 0.0
        self._refused = 0
        """Tries to erase in a row that somebody's reading kept from succeeding."""

    async def run(self) -> None:
        """Carries out what was asked for; a failure is logged and tried again."""
        while not self._stop.is_set():
            await self._contained_look()
            try:
                async with asyncio.timeout(self._every):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """Ends ``run`` after the look at hand."""
        self._stop.set()

    async def _contained_look(self) -> None:
        try:
            await self.look()
        except Exception:  # noqa: BLE001 - the next look should come all the same
            _log.exception("deleting_tenants_failed")

    async def look(self) -> None:
        """One step for each tenant that is being deleted."""
        async with self._services.database.reading() as tx:
            tenants = await tx.tenants.deleting()
        for tenant in tenants:
            try:
                await self.advance(tenant)
            except AuraError as error:
                _log.warning("deleting_tenant_waits", tenant_id=tenant.id, reason=error.message)
            except Exception:  # noqa: BLE001 - it must not keep the other tenants from going
                _log.exception("deleting_tenant_failed", tenant_id=tenant.id)

    async def advance(self, tenant: Tenant) -> None:
        """Does what can be done now; every part of it may be repeated."""
        if tenant.kdf_salt is not None:
            await self._end_machines(tenant)
            await self._end_connections(tenant)
            if not await self._shred(tenant):
                return
        self._services.vault.forget(tenant.id)
        # The salt was overwritten; now it goes from the database's other files, too.
        if not await self._erased():
            return
        async with self._services.database.transaction() as tx:
            await tx.tenants.finish_deletion(tenant.id)

    async def _erased(self) -> bool:
        """Whether the salt is gone from the files. Who reads an older state may do so for hours, as
        a backup does: each try costs the others a moment, so they become seldom."""
        now = asyncio.get_running_loop().time()
        if now < self._erases_at:
            return False
        if await self._services.database.erase("tenants"):
            self._refused = 0
            return True
        wait = min(_LONGEST_WAIT, 2.0 ** min(self._refused, 10))
        self._refused, self._erases_at = self._refused + 1, now + wait
        _log.warning("erasing_waits_for_older_transactions", seconds=wait)
        return False

    async def _end_machines(self, tenant: Tenant) -> None:
        async with self._services.database.reading() as tx:
            found = await tx.instances.of_tenant(tenant.id)
        left = [instance for instance in found if instance.state in DESTROYABLE]
        if not left:
            return
        async with self._services.database.transaction() as tx:
            await mark_destroying(tx, left, actor=OPERATOR)
        await start_destroying(self._services, left, actor=OPERATOR)

    async def _end_connections(self, tenant: Tenant) -> None:
        async with self._services.database.reading() as tx:
            users = await tx.users.list(tenant_id=tenant.id)
            found = [
                connection
                for user in users
                for connection in await tx.integrations.list(tenant_id=tenant.id, user_id=user.id)
                if connection.state is not ConnectionState.DISCONNECTED
            ]
        for connection in found:
            async with self._services.database.transaction() as tx:
                # Nobody waits for this: a key file that is not mounted must not leave a whole
                # tenant's tokens unrevoked. A key that is gone is listed as destroyed.
                ended = await end_use(
                    tx, self._services.vault, connection, actor=OPERATOR, waits_for_key=True
                )
            if ended:
                tell(self._services, connection)

    async def _shred(self, tenant: Tenant) -> bool:
        """Destroys the salt once nothing is left that needs it; whether it is gone."""
        async with self._services.database.reading() as tx:
            left = await progress_of(tx, tenant)
        if left.revocations:
            self._services.revoker.wake()  # the operator may have shortened the wait
        if not left.ready:
            return False
        async with self._services.database.transaction() as tx:
            if not (await progress_of(tx, tenant)).ready:
                return False
            receipt = await _receipt(tx, tenant)
            await tx.tenants.shred(tenant.id, actor=OPERATOR, receipt=receipt)
        return True


async def _receipt(tx: Transaction, tenant: Tenant) -> dict[str, Any]:
    """What is kept of a tenant: whose tokens were revoked, which machines are gone, and when."""
    connections = []
    users = await tx.users.list(tenant_id=tenant.id)
    for user in users:
        for one in await tx.integrations.list(tenant_id=tenant.id, user_id=user.id):
            receipt = receipt_of(await view_of(tx, one))
            connections.append({"provider": one.provider, "user_id": user.id, **(receipt or {})})
    machines = [
        {"instance_id": instance.id, "destroyed_at": instance.updated_at.isoformat()}
        for instance in await tx.instances.of_tenant(tenant.id)
    ]
    return {
        "tenant_id": tenant.id,
        "asked_at": tenant.deleting_at.isoformat() if tenant.deleting_at else None,
        "users": [user.id for user in users],
        "connections": connections,
        "machines": machines,
        "shredded_at": tx.now.isoformat(),
    }
