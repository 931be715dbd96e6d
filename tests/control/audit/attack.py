"""One attempt at an audit log, and making attempts again and again."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import text

from aura_control.db.chain import AuditState, entry_mac
from aura_control.db.transaction import Transaction
from tests.control.audit.log import OTHER, TENANT, Log

__all__ = ["Attack", "Mutation", "all_found"]

S = AuditState
Row = dict[str, Any]


@dataclass(kw_only=True)
class Attack:
    """One attempt: the transaction it is made in, the rows as they are, and what it may choose."""

    log: Log
    tx: Transaction
    dice: random.Random
    rows: Sequence[Row]
    others: Sequence[Row]
    attested: Sequence[int]
    """``seq`` of the checkpoints that cover entries which are still there."""

    def any(self) -> Row:
        return self.dice.choice(self.rows)

    def within(self) -> Row:
        """Neither the first nor the last."""
        return self.dice.choice(self.rows[1:-1])

    async def run(self, statement: str, **values: Any) -> None:
        await self.tx.session.execute(text(statement), values)

    async def insert(self, rows: Sequence[Row]) -> None:
        names = ", ".join(rows[0])
        marks = ", ".join(f":{name}" for name in rows[0])
        statement = text(f"INSERT INTO audit_logs ({names}) VALUES ({marks})")
        await self.tx.session.execute(statement, [*rows])

    async def change(self, row: Mapping[str, Any], **values: Any) -> None:
        """Changes columns of one row."""
        columns = ", ".join(f"{name} = :{name}" for name in values)
        await self.run(f"UPDATE audit_logs SET {columns} WHERE id = :id", **values, id=row["id"])

    async def add(self, row: Mapping[str, Any], **values: Any) -> None:
        await self.insert([{**row, "id": 10**9 + self.dice.randrange(10**6), **values}])

    async def key(self) -> bytes:
        """What nobody but the control plane should have."""
        key = await self.tx.audit.key(TENANT)
        assert key is not None
        return key

    async def end_at(self, seq: int, mac: str) -> None:
        await self.run(
            "UPDATE audit_heads SET seq = :s, mac = :m WHERE tenant_id = :t", s=seq, m=mac, t=TENANT
        )

    async def rewrite(self, start: int, entries: Sequence[str]) -> None:
        """Writes ``entries`` from the row number ``start`` on, with the right key, and the head.
        Each keeps its time."""
        key = await self.key()
        await self.run(
            "DELETE FROM audit_logs WHERE tenant_id = :t AND seq >= :s",
            t=TENANT,
            s=self.rows[start]["seq"],
        )
        prev, seq, made = self.rows[start]["prev"], self.rows[start]["seq"] - 1, []
        for template, entry in zip(self.rows[start:], entries, strict=False):
            seq += 1
            mac = entry_mac(key, tenant_id=TENANT, seq=seq, prev=prev, entry=entry)
            made.append({**template, "seq": seq, "prev": prev, "mac": mac, "entry": entry})
            prev = mac
        await self.insert(made)
        await self.end_at(seq, prev)

    def other_digit(self, digits: str) -> str:
        place = self.dice.randrange(len(digits))
        digit = self.dice.choice([d for d in "0123456789abcdef" if d != digits[place]])
        return digits[:place] + digit + digits[place + 1 :]


class Mutation(Protocol):
    """Makes an attempt and answers what verifying must say."""

    __name__: str

    def __call__(self, attack: Attack) -> Coroutine[Any, Any, AuditState]: ...


class _Undone(Exception):
    """Takes the attempt back."""


async def all_found(log: Log, mutation: Mutation, times: int, *, seed: int) -> None:
    """Makes an attempt again and again, each undone afterwards: each must be found as what it is.

    ``log`` has been laid open.
    """
    assert (await log.verify()).state is S.WHOLE
    name = mutation.__name__
    dice = random.Random(f"{name}-{seed}")
    async with log.database.reading() as tx:
        rows, others = await log.rows(tx), await log.rows(tx, OTHER)
    before = await log.place.witness(TENANT, log.signers)
    attested = [seq for seq in sorted(before.attested) if seq >= rows[0]["seq"]]
    files = {path: path.read_bytes() for path in log.directory.rglob("*.json")}
    for number in range(times):
        try:
            async with log.database.transaction() as tx:
                attack = Attack(
                    log=log, tx=tx, dice=dice, rows=rows, others=others, attested=attested
                )
                expected = await mutation(attack)
                witness = before
                if "checkpoint" in name:
                    witness = await log.place.witness(TENANT, log.signers)
                verdict = await log.verify_view(tx, witness)
                assert verdict.state is expected, (number, verdict)
                raise _Undone
        except _Undone:
            pass
        if "checkpoint" in name:
            for path, raw in files.items():
                path.write_bytes(raw)
    assert (await log.verify()).state is S.WHOLE
