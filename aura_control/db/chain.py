"""A tenant's chain of audit entries: what its MACs cover, and a walk along it.

Nothing here asks a database: the same walk verifies what the database holds, what is about to be
deleted, and what is exported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hmac import compare_digest, digest
from typing import Any, NamedTuple

from aura_core.crypto import lp

__all__ = [
    "GENESIS",
    "RETENTION_DAYS",
    "Anchor",
    "AuditState",
    "Chain",
    "Link",
    "canonical_json",
    "entry_mac",
    "iso",
]

GENESIS = "0" * 64
"""``prev`` of a chain's first entry."""

RETENTION_DAYS = 90
"""How long entries are kept where nobody said otherwise."""

_AT = b',"at":"'
_OWN = b'"action_type":"audit.'

Written = dict[str, tuple[int, str | None]]
"""By connection (``connection:<id>``), what its last write recorded: revision and digest."""


class AuditState(StrEnum):
    """What verifying a chain found, worst last.

    The order is the order of how much it says about whoever did it. Without a key one can lose a
    checkpoint, cut a tail, take entries out or change one; a history that verifies and is another
    one than a checkpoint knows was made by somebody who holds the keys.
    """

    WHOLE = "whole"
    UNVERIFIABLE = "unverifiable"
    """A checkpoint is missing, damaged, or not signed by a known key."""
    TRUNCATED = "truncated"
    GAP = "gap"
    ALTERED = "altered"
    REWRITTEN = "rewritten"
    """Another history than the one that was attested, or a row that was put back."""

    @property
    def rank(self) -> int:
        """0 for a whole chain; of several findings the highest counts."""
        return list(AuditState).index(self)


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that MACs are made over."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def entry_mac(key: bytes, *, tenant_id: str, seq: int, prev: str, entry: str) -> str:
    """HMAC-SHA256 (hexadecimal) of one entry, each field behind its length."""
    message = lp("audit/v1", tenant_id, seq, prev, entry)
    return digest(key, message, "sha256").hex()


class Link(NamedTuple):
    """One entry as it is stored. Texts are UTF-8 bytes, as the MAC takes them: somebody with the
    database can leave bytes there that are no text."""

    seq: int
    prev: bytes
    mac: bytes
    entry: bytes
    at: bytes
    """The column beside the entry, as the entry spells it: ISO 8601, microseconds, UTC."""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Where a chain begins: the last entry that retention deleted, or none (seq 0, GENESIS).

    ``proof`` covers the rest, so that nobody without the tenant's audit key can move an anchor and
    pass a part of the log off as deleted by retention, nor shorten the retention itself and have
    the control plane delete it.
    """

    tenant_id: str
    seq: int = 0
    mac: str = GENESIS
    retention_days: int = RETENTION_DAYS
    written: str = "{}"
    proof: str = ""

    def sealed(self, key: bytes) -> Anchor:
        """The same with its proof."""
        return Anchor(
            tenant_id=self.tenant_id,
            seq=self.seq,
            mac=self.mac,
            retention_days=self.retention_days,
            written=self.written,
            proof=self._proof(key),
        )

    def proves(self, key: bytes) -> bool:
        """Whether it was made with ``key``."""
        return compare_digest(self._proof(key).encode(), self.proof.encode())

    def _proof(self, key: bytes) -> str:
        fields = (self.tenant_id, self.seq, self.mac, self.retention_days, self.written)
        return digest(key, lp("audit-anchor/v1", *fields), "sha256").hex()


@dataclass(kw_only=True)
class Chain:
    """A walk along a chain: where it is, and what it has seen that verifying needs later.

    With ``key`` None (the tenant's keys were destroyed) only the order and the links are looked
    at: nobody can compute the MACs any more.
    """

    tenant_id: str
    key: bytes | None
    seq: int = 0
    mac: bytes = GENESIS.encode()
    last: bytes = b""
    """The entry that was taken last."""
    written: Written = field(default_factory=dict)
    pruned: Mapping[str, Any] | None = None
    """The last ``audit.pruned`` on the way: its metadata and time."""
    retention_days: int | None = None
    """What the last ``audit.retention_set`` on the way said."""

    @classmethod
    def after(cls, anchor: Anchor, key: bytes | None) -> Chain:
        """A walk that begins where retention stopped."""
        written: Written = {
            target: (revision, digest)
            for target, (revision, digest) in json.loads(anchor.written).items()
        }
        mac = anchor.mac.encode()
        return cls(tenant_id=anchor.tenant_id, key=key, seq=anchor.seq, mac=mac, written=written)

    def __post_init__(self) -> None:
        # What lp() puts before each entry's own fields, together with the length of "prev".
        self._start = lp("audit/v1", self.tenant_id)

    def take(self, link: Link) -> AuditState | None:
        """Goes one entry further, or says what is wrong with it.

        Called for every entry of a log, hence the MAC's input is put together here by hand; a test
        holds it against :func:`entry_mac`.
        """
        seq, prev, mac, entry, at = link
        if seq != self.seq + 1 or prev != self.mac:
            return AuditState.GAP
        if self.key is not None:
            number = b"%d" % seq
            message = b"%b%b%b\0\0\0\x40%b%b%b" % (
                self._start,
                len(number).to_bytes(4, "big"),
                number,
                prev,
                len(entry).to_bytes(4, "big"),
                entry,
            )
            # Not hmac.compare_digest: whoever could time this comparison has the database, and
            # reads the right answer there.
            if digest(self.key, message, "sha256").hex().encode() != mac:
                return AuditState.ALTERED
        # Keys are sorted, and a quotation mark inside a text is escaped: the first ,"at":" is the
        # entry's own time, which the column must repeat, since readers and retention go by it.
        start = entry.find(_AT) + len(_AT)
        if entry[start : start + len(at)] != at or entry[start + len(at) :][:1] != b'"':
            return AuditState.ALTERED
        if (b'"envelope_digest"' in entry or _OWN in entry) and not self._note(entry):
            return AuditState.ALTERED
        self.seq, self.mac, self.last = seq, mac, entry
        return None

    def _note(self, text: bytes) -> bool:
        try:
            entry = json.loads(text)
            data = entry["metadata"]
            if "envelope_digest" in data:
                self.written[entry["target"]] = (data["revision"], data["envelope_digest"])
            if entry["action_type"] == "audit.pruned":
                self.pruned = {**data, "at": entry["at"]}
            elif entry["action_type"] == "audit.retention_set":
                self.retention_days = data["days"]
        except (ValueError, LookupError, TypeError):
            return False  # not one of ours: it cannot be, where the MAC was right
        return True

    @property
    def anchor_text(self) -> str:
        """What :attr:`Anchor.written` holds after this walk."""
        return canonical_json({target: list(last) for target, last in self.written.items()})


def iso(at: datetime) -> str:
    """A time as entries spell it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
