"""What ``aura audit`` does with the database; a module of its own because it imports what serving
takes, which ``aura --help`` would wait for in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aura_control.bootstrap import load_signing, open_checkpoints, open_database
from aura_control.cli.registry import open_vault
from aura_control.db.engine import Database
from aura_control.db.schema import require_current_schema
from aura_control.db.verdict import AuditVerdict
from aura_control.services.audit import verify_log
from aura_control.services.audit_export import Exported, export_log, verify_export
from aura_control.services.checkpoints import CheckpointPlace
from aura_control.services.keys import Vault
from aura_control.settings import Settings
from aura_core.encoding import b64url
from aura_core.errors import ConfigurationError
from aura_core.registry import Registry
from aura_core.wire import ControlKeys, parse_public_keys

__all__ = ["Auditing", "exported", "opened", "retained", "verdict_of_file", "verdicts"]

_OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class Auditing:
    """What the commands work with."""

    database: Database
    vault: Vault
    place: CheckpointPlace


@asynccontextmanager
async def opened(
    settings: Settings, registry: Registry, place: str | None
) -> AsyncIterator[Auditing]:
    """The database and the place of the checkpoints. Raises ConfigurationError, and what the store
    of a master key raises."""
    vault = await asyncio.to_thread(open_vault, settings)
    await require_current_schema(settings.database)
    kept = open_checkpoints(settings, registry, place=place)
    database = open_database(settings, vault)
    try:
        yield Auditing(database=database, vault=vault, place=kept)
    finally:
        await database.close()


async def verdicts(
    auditing: Auditing,
    tenant_id: str | None,
    further: Mapping[str, str],
    progress: Callable[[str, int], None],
) -> Sequence[AuditVerdict]:
    """Verifies one tenant's log, or all."""
    signers = _signers(auditing.vault.signing, further)
    async with auditing.database.reading() as tx:
        tenants = [(await tx.tenants.get(tenant_id))] if tenant_id else await tx.tenants.list()
    found = []
    for tenant in tenants:
        count = _Count(tenant.id, progress)
        found.append(
            await verify_log(
                auditing.database,
                tenant.id,
                place=auditing.place,
                signers=signers,
                progress=count.add,
            )
        )
    return found


class _Count:
    def __init__(self, tenant_id: str, progress: Callable[[str, int], None]) -> None:
        self._tenant_id = tenant_id
        self._progress = progress
        self._entries = 0

    def add(self, entries: int) -> None:
        self._entries += entries
        self._progress(self._tenant_id, self._entries)


async def exported(
    auditing: Auditing,
    tenant_id: str,
    further: Mapping[str, str],
    write: Callable[[bytes], object],
    *,
    since: datetime | None,
    until: datetime | None,
) -> Exported:
    """Exports one tenant's log."""
    return await export_log(
        auditing.database,
        tenant_id,
        place=auditing.place,
        signing=auditing.vault.signing,
        signers=_signers(auditing.vault.signing, further),
        write=write,
        since=since,
        until=until,
    )


async def retained(auditing: Auditing, tenant_id: str, days: int) -> int:
    """Sets the days; answers those before."""
    async with auditing.database.transaction() as tx:
        return await tx.retention.set_days(tenant_id, days, actor=_OPERATOR)


def verdict_of_file(path: Path, settings: Settings, further: Mapping[str, str]) -> AuditVerdict:
    """Checks an export with the keys that were named, and this control plane's own, if it is one.
    Whoever only checks a file has none."""
    own = load_signing(settings) if settings.signing_key_path.exists() else None
    if own is None and not further:
        raise ConfigurationError(
            "There is no public key to check the file with.",
            hint="Name the one that 'aura audit signer' printed: --signer FILE",
        )
    try:
        with path.open("rb") as handle:
            return verify_export(handle, _signers(own, further))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None


def _signers(own: ControlKeys | None, further: Mapping[str, str]) -> Mapping[str, bytes]:
    mine = {} if own is None else {own.signer_kid: b64url(own.sig_public)}
    return parse_public_keys({**further, **mine})
