"""A tenant's audit log as a file that others can check: JSON Lines, signed as a whole.

The first line says what it is, with the signed checkpoints of that time; then each entry as it is
stored; the last line signs everything before it. The MACs are told but not the key that checks
them: whoever can check a MAC can forge one. For everybody else there is the signature, which says
that the control plane found these entries in its log, and in which state the log was, and the
checkpoints, which say so of the time when the entries were new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aura_control.db.chain import Anchor, AuditState, Chain, Link, canonical_json, iso
from aura_control.db.engine import Database
from aura_control.db.verdict import AuditVerdict, Finding
from aura_control.services.checkpoints import CheckpointPlace, Witness
from aura_core.checkpoints import Checkpoint
from aura_core.encoding import b64url, load_object, lp, unb64url
from aura_core.errors import InvalidInput, NotFound, SignatureInvalid, WireError
from aura_core.wire import ControlKeys, check_signature

__all__ = ["Exported", "export_log", "verify_export"]

_LAST = 2**53 - 1
_KIND = "aura-audit-export"

_HEADER = {"kind": str, "v": int, "tenant_id": str, "checkpoints": list}
_ENTRY = {"seq": int, "prev": str, "mac": str, "entry": str}
_ENDED = {"entries": int, "state": str, "signer_kid": str, "digest": str, "sig": str}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    tenant_id: str
    entries: int
    state: AuditState


async def export_log(
    database: Database,
    tenant_id: str,
    *,
    place: CheckpointPlace,
    signing: ControlKeys,
    signers: Mapping[str, bytes],
    write: Callable[[bytes], object],
    since: datetime | None = None,
    until: datetime | None = None,
) -> Exported:
    """Writes the entries from the first one of ``since`` or later to the last one before the first
    of ``until`` or later, verifying the log up to there.

    A log that does not verify is exported all the same, and the last line says what was found: it
    is evidence. Raises NotFound, and the errors of the place.
    """
    witness = await place.witness(tenant_id, signers, raw=True)
    hashing = hashlib.sha256()

    def line(document: Mapping[str, Any]) -> None:
        raw = canonical_json(document).encode() + b"\n"
        hashing.update(raw)
        write(raw)

    async with database.reading() as tx:
        key = await tx.audit.key(tenant_id)
        anchor = await tx.audit.anchor(tenant_id)
        if anchor is None:
            raise NotFound("The tenant's audit log has no anchor.")
        begin, end = 0, _LAST
        if since is not None:
            begin = await tx.audit.first_from(tenant_id, since) or _LAST
        if until is not None:
            end = await tx.audit.first_from(tenant_id, until) or _LAST
        line(
            {
                **_header(anchor, witness, begin, end),
                "since": None if since is None else iso(since),
                "until": None if until is None else iso(until),
            }
        )
        chain = Chain.after(anchor, key)
        whole = key is None or anchor.proves(key)
        state = AuditState.WHOLE if whole else AuditState.ALTERED
        entries = 0
        async with aclosing(tx.audit.links(tenant_id, until=end - 1)) as pages:
            async for page in pages:
                for link in page:
                    if state is AuditState.WHOLE:
                        state = chain.take(link) or state
                    if link.seq >= begin:
                        line(_entry(link))
                        entries += 1
    ended = {"entries": entries, "state": state.value, "signer_kid": signing.signer_kid}
    digest = hashing.hexdigest()
    sig = signing.sign(_signed(digest, ended))
    line({"end": {**ended, "digest": digest, "sig": b64url(sig)}})
    return Exported(tenant_id=tenant_id, entries=entries, state=state)


def _header(anchor: Anchor, witness: Witness, begin: int, end: int) -> dict[str, Any]:
    return {
        "kind": _KIND,
        "v": 1,
        "tenant_id": anchor.tenant_id,
        "anchor": {"seq": anchor.seq, "mac": anchor.mac, "retention_days": anchor.retention_days},
        "checkpoints": [
            load_object(witness.raw[seq]) for seq in witness.attested if begin <= seq < end
        ],
    }


def _entry(link: Link) -> dict[str, Any]:
    return {
        "seq": link.seq,
        "prev": link.prev.decode(errors="replace"),
        "mac": link.mac.decode(errors="replace"),
        "entry": link.entry.decode(errors="replace"),
    }


def _signed(digest: str, ended: Mapping[str, Any]) -> bytes:
    return lp("aura-audit-export/v1", digest, ended["entries"], ended["state"], ended["signer_kid"])


def verify_export(lines: Iterable[bytes], signers: Mapping[str, bytes]) -> AuditVerdict:
    """Checks what :func:`export_log` wrote, with nothing but public keys by key id.

    Raises InvalidInput for what is no export at all.
    """
    found = iter(lines)
    first = next(found, b"")
    header = _shaped(first, _HEADER)
    if header is None or header["kind"] != _KIND or header["v"] != 1:
        raise InvalidInput("This is not an export of an audit log.")
    hashing, file, ended = hashlib.sha256(first), _File(), None
    for document in header["checkpoints"]:
        file.attest(document, header["tenant_id"], signers)
    for raw in found:
        if raw.startswith(b'{"end":'):
            ended = _shaped(raw, {"end": dict})
            break
        hashing.update(raw)
        file.take(_shaped(raw, _ENTRY))
    findings = [
        *file.findings,
        *_signature((ended or {}).get("end"), hashing.hexdigest(), file.entries, signers),
    ]
    if ended is not None and next(found, None) is not None:
        findings.append(Finding(state=AuditState.ALTERED, detail="there is more after the end"))
    return AuditVerdict(
        tenant_id=header["tenant_id"],
        entries=file.entries,
        first=file.first or 1,
        findings=tuple(findings),
        checkpoints=len(file.attested),
    )


class _File:
    """A walk along the entries of an export."""

    def __init__(self) -> None:
        self.attested: dict[int, str] = {}
        self.entries = 0
        self.first: int | None = None
        self.findings: list[Finding] = []
        self._last: tuple[int, str] | None = None

    def attest(
        self, document: Mapping[str, Any], tenant_id: str, signers: Mapping[str, bytes]
    ) -> None:
        """Takes a checkpoint, if its signature verifies."""
        try:
            # Its signature is over the fields, not over their spelling.
            one = Checkpoint.verify(canonical_json(document).encode(), signers)
            if one.tenant_id != tenant_id:
                raise WireError("is another tenant's")
        except WireError as error:
            detail = f"a checkpoint in the file: {error.message}"
            self.findings.append(Finding(state=AuditState.UNVERIFIABLE, detail=detail))
        else:
            self.attested[one.seq] = one.mac

    def take(self, entry: Mapping[str, Any] | None) -> None:
        """Goes one line further."""
        self.entries += 1
        if entry is None:
            self._found(AuditState.ALTERED, None, "a line is no entry")
            return
        seq, mac = entry["seq"], entry["mac"]
        self.first = self.first or seq
        if self._last is not None and (seq - 1, entry["prev"]) != self._last:
            self._found(AuditState.GAP, seq, "an entry is missing or out of order")
        if self.attested.get(seq, mac) != mac:
            self._found(AuditState.REWRITTEN, seq, "a checkpoint was signed over another history")
        self._last = seq, mac

    def _found(self, state: AuditState, seq: int | None, detail: str) -> None:
        if state not in {finding.state for finding in self.findings}:
            self.findings.append(Finding(state=state, seq=seq, detail=detail))


def _signature(
    ended: Mapping[str, Any] | None, digest: str, entries: int, signers: Mapping[str, bytes]
) -> Iterator[Finding]:
    if ended is None or not _has(ended, _ENDED) or ended["entries"] > entries:
        yield Finding(state=AuditState.TRUNCATED, detail="the file is cut off")
        return
    public = signers.get(ended["signer_kid"])
    if public is None:
        detail = f"the file is signed by {ended['signer_kid']}, which is not a known key"
        yield Finding(state=AuditState.UNVERIFIABLE, detail=detail)
        return
    try:
        signature = unb64url(ended["sig"], length=64)
        check_signature(public, signature, _signed(digest, ended), what="the export")
        if ended["digest"] != digest:
            raise ValueError("tells another digest")
    except (ValueError, SignatureInvalid):
        yield Finding(state=AuditState.ALTERED, detail="the file is not what was signed")
        return
    if ended["state"] != AuditState.WHOLE:
        detail = "the log did not verify when it was exported"
        yield Finding(state=AuditState(ended["state"]), detail=detail)


def _shaped(raw: bytes, shape: Mapping[str, type]) -> dict[str, Any] | None:
    try:
        document = load_object(raw)
    except ValueError:
        return None
    return document if _has(document, shape) else None


def _has(document: Mapping[str, Any], shape: Mapping[str, type]) -> bool:
    return all(type(document.get(name)) is kind for name, kind in shape.items())
