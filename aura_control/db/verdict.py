"""What verifying a chain found, and how it is told from what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from aura_control.db.chain import Anchor, AuditState, Chain
from aura_core.checkpoints import Checkpoint

__all__ = ["AuditVerdict", "Finding", "compare", "compare_attested"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong; ``seq`` is the first entry in trouble, where it is one."""

    state: AuditState
    detail: str
    seq: int | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class AuditVerdict:
    """The answer about one tenant's chain."""

    tenant_id: str
    entries: int
    """How many were verified."""
    first: int
    """``seq`` of the first entry that retention left."""
    findings: tuple[Finding, ...] = ()
    closed: bool = False
    """The tenant was shredded: nobody can compute its MACs any more."""
    checkpoints: int = 0
    """How many signed checkpoints the chain was compared with."""
    warnings: tuple[str, ...] = ()
    """What is not wrong with the log, but soon may be past finding."""

    @property
    def worst(self) -> Finding | None:
        """The finding that says most."""
        return max(self.findings, key=lambda one: one.state.rank, default=None)

    @property
    def state(self) -> AuditState:
        """The worst finding's state."""
        return AuditState.WHOLE if self.worst is None else self.worst.state

    @property
    def seq(self) -> int | None:
        """Where the worst finding is."""
        return None if self.worst is None else self.worst.seq

    @property
    def target(self) -> str | None:
        """What the worst finding is about, where that is no entry."""
        return None if self.worst is None else self.worst.target

    def plus(
        self, findings: tuple[Finding, ...], *, checkpoints: int, warnings: tuple[str, ...] = ()
    ) -> AuditVerdict:
        """The same with what the checkpoints say."""
        return replace(
            self,
            findings=(*self.findings, *findings),
            checkpoints=checkpoints,
            warnings=warnings,
        )

    @classmethod
    def unreadable(cls, tenant_id: str, reason: str) -> AuditVerdict:
        """Nothing can be said, because the tenant's audit key does not open."""
        finding = Finding(state=AuditState.UNVERIFIABLE, detail=f"the audit key: {reason}")
        return cls(tenant_id=tenant_id, entries=0, first=1, findings=(finding,))

    @classmethod
    def baseless(cls, tenant_id: str) -> AuditVerdict:
        """There is nothing to begin at."""
        finding = Finding(
            state=AuditState.ALTERED,
            detail="the anchor, where the log begins, is missing or forged",
        )
        return cls(tenant_id=tenant_id, entries=0, first=1, findings=(finding,))


def compare(chain: Chain, anchor: Anchor, head: tuple[int, str] | None) -> Iterator[Finding]:
    """What does not agree with a chain that was walked to its end: head, anchor, closing entry."""
    end = chain.seq + 1
    if chain.seq == 0:
        yield Finding(state=AuditState.TRUNCATED, seq=1, detail="there are no entries at all")
    elif head is not None and head[0] > chain.seq:
        yield Finding(
            state=AuditState.TRUNCATED, seq=end, detail=f"the chain went on up to {head[0]}"
        )
    elif head != (chain.seq, chain.mac.decode()):
        yield Finding(
            state=AuditState.REWRITTEN,
            seq=chain.seq,
            detail="the chain does not end where the control plane ended it",
        )
    if chain.key is None and b'"action_type":"tenant.shredded"' not in chain.last:
        yield Finding(
            state=AuditState.ALTERED,
            seq=chain.seq,
            detail="the tenant's salt is gone, and the log does not say that it was shredded",
        )
    yield from _retention(chain, anchor)


def _retention(chain: Chain, anchor: Anchor) -> Iterator[Finding]:
    """The anchor must be the one that the chain says retention made, and no younger entry may be
    gone than the retention of that time allowed."""
    said = chain.pruned
    if anchor.seq and (said is None or (said["through"], said["mac"]) != (anchor.seq, anchor.mac)):
        yield Finding(
            state=AuditState.REWRITTEN,
            seq=anchor.seq,
            detail="entries are gone that the log does not say retention deleted",
        )
    elif anchor.seq and said is not None:
        longest = datetime.fromisoformat(said["at"]) - timedelta(days=said["days"])
        if datetime.fromisoformat(said["before"]) > longest:
            yield Finding(
                state=AuditState.REWRITTEN,
                seq=anchor.seq,
                detail="entries are gone that were younger than the retention",
            )
    if chain.retention_days not in (None, anchor.retention_days):
        yield Finding(
            state=AuditState.REWRITTEN,
            seq=anchor.seq,
            detail=f"the retention was set to {chain.retention_days} days and put back",
        )


def compare_attested(
    chain: Chain,
    anchor: Anchor,
    attested: Mapping[int, Checkpoint],
    macs: Mapping[int, str],
    *,
    ended: int | None,
) -> Iterator[Finding]:
    """What does not agree with signed checkpoints. ``macs`` are the chain's own by ``seq``;
    ``ended`` is where it ends, None for a walk that was broken off."""
    given_up = (chain.pruned or {}).get("before", "")
    for seq in sorted(attested):
        checkpoint = attested[seq]
        if seq < anchor.seq:
            if ended is not None and checkpoint.at >= given_up:
                yield Finding(
                    state=AuditState.REWRITTEN,
                    seq=seq,
                    detail="an entry is gone that a checkpoint says was younger than the retention",
                )
        elif seq == anchor.seq or seq in macs:
            if checkpoint.mac != (anchor.mac if seq == anchor.seq else macs[seq]):
                yield Finding(
                    state=AuditState.REWRITTEN,
                    seq=seq,
                    detail="a checkpoint was signed over another history",
                )
                return
        elif ended is not None and seq > ended:
            yield Finding(
                state=AuditState.TRUNCATED,
                seq=ended + 1,
                detail=f"a checkpoint was signed over entry {seq}",
            )
            return
