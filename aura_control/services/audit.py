"""Verifying audit logs against the database, and against the checkpoints that were signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from aura_control.db.chain import AuditState, iso
from aura_control.db.engine import Database
from aura_control.db.journal import CHECKPOINT_AFTER
from aura_control.db.transaction import Transaction
from aura_control.db.verdict import AuditVerdict, Finding
from aura_control.services.checkpoints import CheckpointPlace, Witness, read
from aura_core.checkpoints import Checkpoint, checkpoint_name
from aura_core.errors import WireError

__all__ = ["STALLED_AFTER", "attest", "verify_log", "verify_view"]

STALLED_AFTER = 2 * CHECKPOINT_AFTER
"""How long an entry may be without a checkpoint before it is worth a warning."""


async def verify_log(
    database: Database,
    tenant_id: str,
    *,
    place: CheckpointPlace,
    signers: Mapping[str, bytes],
    progress: Callable[[int], None] = lambda entries: None,
) -> AuditVerdict:
    """Verifies one tenant's log; the control plane may go on writing it meanwhile.

    ``signers`` are the public keys, by key id, whose checkpoints count. Raises NotFound, and the
    store's ConfigurationError or ProviderUnavailable when the place cannot be read.
    """
    # First the place, then one unchanging view of the database: so whatever a checkpoint says was
    # there when it was signed is there in the view, too, if it is anywhere.
    witness = await place.witness(tenant_id, signers)
    async with database.reading() as tx:
        return await verify_view(
            tx, tenant_id, place=place, witness=witness, signers=signers, progress=progress
        )


async def verify_view(
    tx: Transaction,
    tenant_id: str,
    *,
    place: CheckpointPlace,
    witness: Witness,
    signers: Mapping[str, bytes],
    progress: Callable[[int], None] = lambda entries: None,
) -> AuditVerdict:
    """Verifies what one transaction sees against what a place attested before it began."""
    head = await tx.audit.head(tenant_id)
    verdict = await tx.audit.verify(tenant_id, attested=witness.attested, progress=progress)
    known = 0 if head is None else head.checkpoint_seq
    attested = dict(witness.attested)
    if known and known not in attested:
        attested |= await _late(place, tenant_id, known, signers)
    findings = tuple(attest(witness, attested, known=known, first=verdict.first))
    return verdict.plus(
        findings,
        checkpoints=len(witness.attested),
        # Of a chain in trouble there is more to say, and its columns may hold anything.
        warnings=()
        if verdict.findings
        else await _stalled(tx, tenant_id, newest=max(attested, default=0)),
    )


async def _stalled(tx: Transaction, tenant_id: str, *, newest: int) -> tuple[str, ...]:
    """Whether entries wait for a checkpoint for longer than one takes and is tried again.

    Nothing is wrong with them yet. But whoever can keep checkpoints from being made, by a column of
    the database or at their place, has for as long a log that can be rewritten unseen. So it is
    asked of the signed checkpoints and not of what the database says of them.
    """
    since = await tx.audit.waiting_since(tenant_id, after=newest)
    if since is None or tx.now - since <= STALLED_AFTER:
        return ()
    known = f"since entry {newest}" if newest else "yet"
    return (f"no checkpoint {known}, though there is something new since {iso(since)[:16]} UTC",)


async def _late(
    place: CheckpointPlace, tenant_id: str, seq: int, signers: Mapping[str, bytes]
) -> dict[int, Checkpoint]:
    """The checkpoint that was kept after the place was listed, and before the view was taken, with
    those between."""
    late: dict[int, Checkpoint] = {}
    while seq:
        name = checkpoint_name(tenant_id, seq)
        try:
            late[seq] = read(name, await place.get(name), signers)
        except WireError:
            break
        seq = late[seq].previous
    return late


def attest(
    witness: Witness, attested: Mapping[int, Checkpoint], *, known: int, first: int
) -> Iterator[Finding]:
    """What is wrong with the checkpoints themselves: refused ones, and missing ones.

    Each names the one before, and the control plane remembers the newest that it brought there
    (``known``); so one that was taken away shows. Those of entries that retention deleted (before
    ``first``) may go.
    """
    for name, reason in witness.refused.items():
        yield Finding(
            state=AuditState.UNVERIFIABLE, detail=f"checkpoint {name}: {reason}", target=name
        )
    wanted = {known, *(checkpoint.previous for checkpoint in attested.values())}
    for seq in sorted(wanted - attested.keys()):
        if seq >= first:
            yield Finding(
                state=AuditState.UNVERIFIABLE,
                seq=seq,
                detail=f"the checkpoint of entry {seq} is missing",
            )
