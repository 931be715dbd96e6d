"""Stored credentials that do not open: whose problem it is, and what is written down.

A damaged, moved or rolled back envelope is the connection's problem, and only its user can mend it
by connecting again. A key that this process does not have is the operator's: marking connections
then would end all of them because one file was not mounted.
"""

from __future__ import annotations

from aura_control.db.connection import envelope_digest
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_core.errors import (
    AuraError,
    KeyMissing,
    ReauthorizationRequired,
    RefreshFailed,
)

__all__ = ["record", "refuse"]

_log = get_logger(__name__)

_REASONS = {
    "damaged": "The stored credential for {} was damaged or replaced and cannot be used.",
    "old_revision": "The stored credential for {} is an old one that was put back; it is not used.",
    "key_destroyed": "The key of the stored credential for {} was destroyed.",
}
_REPORTS = 10_000
"""Connections whose missing key one process audits: each once, and then it has been said."""


async def refuse(database: Database, vault: Vault, refused: EnvelopeRefused) -> AuraError:
    """:func:`record` in a transaction of its own, for callers whose own one is over."""
    async with database.transaction() as tx:
        return await record(tx, vault, refused)


async def record(tx: Transaction, vault: Vault, refused: EnvelopeRefused) -> AuraError:
    """Records the refusal and answers the error to raise.

    ReauthorizationRequired, after the connection was marked and ``connection.envelope_refused``
    audited; KeyMissing, audited once by each process, with the connection as it was; RefreshFailed
    where the row changed since it was read; the refusal itself for a shredded tenant, whose audit
    log is closed. Nothing of the stored credential is overwritten.
    """
    connection, cause = refused.connection, refused.cause
    _log.error("envelope_refused", connection_id=connection.id, kind=refused.kind)
    if (await tx.tenants.get(connection.tenant_id)).kdf_salt is None:
        return refused
    newest = await tx.integrations.by_id(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )
    if not newest.sealed_as(connection):
        return RefreshFailed(
            f"The credential for {connection.provider} changed a moment ago.", hint="Try again."
        )
    if isinstance(cause, KeyMissing):
        said = (connection.id, connection.revision)
        if said not in vault.reported and len(vault.reported) < _REPORTS:
            vault.reported.add(said)
            await _audit(tx, refused, kind=cause.kind, key=cause.kid)
        return cause
    return await _mark(tx, refused)


async def _mark(tx: Transaction, refused: EnvelopeRefused) -> AuraError:
    connection, kind = refused.connection, refused.kind
    if kind == "damaged" and await _put_back(tx, refused):
        kind = "old_revision"
    reason = _REASONS[kind].format(connection.provider)
    marked = await tx.integrations.mark(
        tenant_id=connection.tenant_id,
        connection_id=connection.id,
        state=ConnectionState.REAUTH_REQUIRED,
        reason=reason,
        expected_revision=connection.revision,
    )
    if marked:
        await _audit(tx, refused, kind=kind)
    return ReauthorizationRequired(reason, hint="Connect the account again.")


async def _put_back(tx: Transaction, refused: EnvelopeRefused) -> bool:
    """Whether the tokens are those of an earlier revision, as the audit log knows it."""
    connection = refused.connection
    written = await tx.sealed.written(tenant_id=connection.tenant_id, connection_id=connection.id)
    return any(
        revision != connection.revision
        and envelope_digest(connection.tokens_as_stored, revision) == digest
        for revision, digest in written
    )


async def _audit(tx: Transaction, refused: EnvelopeRefused, **facts: str) -> None:
    connection = refused.connection
    await tx.audit.append(
        connection.tenant_id,
        action="connection.envelope_refused",
        actor="system",
        target=f"connection:{connection.id}",
        metadata={"provider": connection.provider, "at_revision": connection.revision, **facts},
    )
