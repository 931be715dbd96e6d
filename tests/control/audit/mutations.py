"""What can be done to an audit log by somebody who has the database, the place of the checkpoints,
or the keys; and what verifying must say to it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from aura_control.db.chain import Anchor, AuditState, entry_mac
from aura_core.checkpoints import checkpoint_name
from aura_core.wire import ControlKeys
from tests.control.audit.attack import Attack, Mutation
from tests.control.audit.log import OTHER, TENANT

S = AuditState
Row = dict[str, Any]


async def a_byte_of_the_text(attack: Attack) -> AuditState:
    row = attack.any()
    entry: str = row["entry"]
    place = attack.dice.randrange(len(entry))
    other = attack.dice.choice([chr(c) for c in range(32, 127) if chr(c) != entry[place]])
    await attack.change(row, entry=entry[:place] + other + entry[place + 1 :])
    return S.ALTERED


async def the_number(attack: Attack) -> AuditState:
    row = attack.any()
    seqs = [*range(-3, 400), 10**12]
    await attack.change(row, seq=attack.dice.choice([s for s in seqs if s != row["seq"]]))
    return S.GAP


async def the_link(attack: Attack) -> AuditState:
    row = attack.any()
    await attack.change(row, prev=attack.other_digit(row["prev"]))
    return S.GAP


async def the_mac(attack: Attack) -> AuditState:
    row = attack.any()
    await attack.change(row, mac=attack.other_digit(row["mac"]))
    return S.ALTERED


async def the_time(attack: Attack) -> AuditState:
    row = attack.any()
    other = attack.dice.choice([one for one in attack.rows if one["at"] != row["at"]])
    await attack.change(row, at=other["at"])
    return S.ALTERED


async def an_entry_taken_out(attack: Attack) -> AuditState:
    row = attack.dice.choice(attack.rows[:-1])
    await attack.run("DELETE FROM audit_logs WHERE id = :id", id=row["id"])
    return S.GAP


async def two_entries_swapped(attack: Attack) -> AuditState:
    one, other = attack.dice.sample(list(attack.rows), 2)
    await attack.change(one, seq=other["seq"])
    await attack.change(other, seq=one["seq"])
    return S.GAP


async def two_texts_swapped(attack: Attack) -> AuditState:
    one = attack.any()
    other = attack.dice.choice([row for row in attack.rows if row["entry"] != one["entry"]])
    await attack.change(one, entry=other["entry"], at=other["at"])
    await attack.change(other, entry=one["entry"], at=one["at"])
    return S.ALTERED


async def an_entry_twice(attack: Attack) -> AuditState:
    await attack.add(attack.any())
    return S.GAP


async def a_forged_entry(attack: Attack) -> AuditState:
    """At the end, linked to it, with the head moved on."""
    last, mac = attack.rows[-1], f"{attack.dice.getrandbits(256):064x}"
    await attack.add(attack.any(), seq=last["seq"] + 1, prev=last["mac"], mac=mac)
    if attack.dice.random() < 0.5:
        await attack.end_at(last["seq"] + 1, mac)
    return S.ALTERED


async def a_forged_entry_with_the_key(attack: Attack) -> AuditState:
    """At the end, but nobody moved the head."""
    last, row = attack.rows[-1], attack.any()
    mac = entry_mac(
        await attack.key(),
        tenant_id=TENANT,
        seq=last["seq"] + 1,
        prev=last["mac"],
        entry=row["entry"],
    )
    await attack.add(row, seq=last["seq"] + 1, prev=last["mac"], mac=mac)
    return S.REWRITTEN


async def the_tail_cut(attack: Attack) -> AuditState:
    start = attack.dice.randrange(len(attack.rows))
    await attack.run(
        "DELETE FROM audit_logs WHERE tenant_id = :t AND seq >= :s",
        t=TENANT,
        s=attack.rows[start]["seq"],
    )
    # Cut right behind the anchor, not even the entry that tells of the anchor is left.
    return S.TRUNCATED if start > _told(attack) else S.REWRITTEN


async def the_tail_cut_with_the_head(attack: Attack) -> AuditState:
    """Shorter than the newest checkpoint knows it."""
    kept = [n for n, row in enumerate(attack.rows) if row["seq"] < attack.attested[-1]]
    end = attack.dice.choice(kept)
    await attack.run(
        "DELETE FROM audit_logs WHERE tenant_id = :t AND seq > :s",
        t=TENANT,
        s=attack.rows[end]["seq"],
    )
    await attack.end_at(attack.rows[end]["seq"], attack.rows[end]["mac"])
    return S.TRUNCATED if end >= _told(attack) else S.REWRITTEN


def _told(attack: Attack) -> int:
    """The row that tells of the anchor."""
    return next(n for n, row in enumerate(attack.rows) if '"audit.pruned"' in row["entry"])


async def the_tail_written_anew(attack: Attack) -> AuditState:
    """With the right key, from before the newest checkpoint on, to any length."""
    told = _told(attack)
    starts = [
        n for n, row in enumerate(attack.rows) if told < n and row["seq"] <= attack.attested[-1]
    ]
    start = attack.dice.choice(starts)
    texts = [row["entry"] for row in attack.rows[start:]]
    texts[0] = _changed(texts[0], attack.dice)
    texts = texts[: attack.dice.randint(1, len(texts))]
    await attack.rewrite(start, texts)
    seq = attack.rows[start]["seq"]
    seen = [s for s in attack.attested if seq <= s < seq + len(texts)]
    return S.REWRITTEN if seen else S.TRUNCATED


async def everything_written_anew(attack: Attack) -> AuditState:
    texts = [row["entry"] for row in attack.rows]
    places = [n for n, row in enumerate(attack.rows) if row["seq"] <= attack.attested[-1]]
    place = attack.dice.choice([n for n in places if n != _told(attack)])
    texts[place] = _changed(texts[place], attack.dice)
    await attack.rewrite(0, texts)
    return S.REWRITTEN


def _changed(entry: str, dice: random.Random) -> str:
    document = json.loads(entry)
    document["actor"] = f"user:{dice.randrange(10**6)}"
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


async def another_tenants_entry(attack: Attack) -> AuditState:
    row, other = attack.any(), attack.dice.choice(attack.others)
    if attack.dice.random() < 0.5:
        await attack.change(row, **{name: other[name] for name in ("prev", "mac", "entry", "at")})
        return S.GAP
    await attack.change(row, **{name: other[name] for name in ("mac", "entry", "at")})
    return S.ALTERED


async def a_forged_anchor(attack: Attack) -> AuditState:
    """Further on, with all before it deleted."""
    row = attack.dice.choice(attack.rows[:-1])
    values = {"seq": row["seq"], "mac": row["mac"], "proof": f"{attack.dice.getrandbits(256):064x}"}
    if attack.dice.random() < 0.3:
        del values["proof"]
    await _anchor(attack, values)
    return S.ALTERED


async def an_anchor_with_the_key(attack: Attack) -> AuditState:
    """The same, with a proof; the log does not tell of it, or a checkpoint knows better."""
    row = attack.dice.choice(attack.rows[:-1])
    held = await attack.tx.audit.anchor(TENANT)
    assert held is not None
    made = Anchor(tenant_id=TENANT, seq=row["seq"], mac=row["mac"], written=held.written).sealed(
        await attack.key()
    )
    await _anchor(attack, {"seq": made.seq, "mac": made.mac, "proof": made.proof})
    return S.REWRITTEN


async def a_shorter_retention(attack: Attack) -> AuditState:
    """So that the control plane itself deletes what should be kept."""
    days = attack.dice.randrange(1, 90)
    await attack.run("UPDATE audit_anchors SET retention_days = :d WHERE tenant_id = 't1'", d=days)
    return S.ALTERED


async def _anchor(attack: Attack, values: Mapping[str, Any]) -> None:
    columns = ", ".join(f"{name} = :{name}" for name in values)
    await attack.run(f"UPDATE audit_anchors SET {columns} WHERE tenant_id = 't1'", **values)
    await attack.run("DELETE FROM audit_logs WHERE tenant_id = 't1' AND seq <= :s", s=values["seq"])


async def a_connection_put_back(attack: Attack) -> AuditState:
    """Tokens and revision as they were, with the digest that belongs to them, or the row gone."""
    way = attack.dice.randrange(3)
    if way == 0:
        revision = attack.dice.randrange(10**12)
        await attack.run("UPDATE connection_states SET revision = :r", r=revision)
    elif way == 1:
        token = f"stolen-{attack.dice.random()}"
        await attack.run("UPDATE integrations SET access_token = :a", a=token)
    else:
        await attack.run("DELETE FROM connection_states")
    return S.REWRITTEN


async def a_salt_taken_away(attack: Attack) -> AuditState:
    """So that nobody can compute the MACs."""
    await attack.run("UPDATE tenants SET kdf_salt = NULL WHERE id = 't1'")
    return S.ALTERED


async def another_audit_key(attack: Attack) -> AuditState:
    await attack.run(
        "UPDATE tenants SET audit_key = (SELECT audit_key FROM tenants WHERE id = :o)"
        " WHERE id = 't1'",
        o=OTHER,
    )
    return S.UNVERIFIABLE


async def a_checkpoint_altered(attack: Attack) -> AuditState:
    path = _checkpoint(attack)
    raw = path.read_bytes().rstrip()
    place = attack.dice.randrange(len(raw))
    other = attack.dice.choice([c for c in range(33, 127) if c != raw[place]])
    path.write_bytes(raw[:place] + bytes([other]) + raw[place + 1 :])
    return S.UNVERIFIABLE


async def a_checkpoint_taken_away(attack: Attack) -> AuditState:
    _checkpoint(attack).unlink()
    return S.UNVERIFIABLE


async def a_forged_checkpoint(attack: Attack) -> AuditState:
    """Signed by somebody else, or an older one under a newer one's name."""
    path = _checkpoint(attack)
    if attack.dice.random() < 0.5:
        raw = path.read_bytes()
        place = attack.log.place
        seq = attack.dice.choice(
            [s for s in attack.attested if not path.name.startswith(f"{s:020d}")]
        )
        path.write_bytes(await place.get(checkpoint_name(TENANT, seq)) or raw)
        return S.UNVERIFIABLE
    checkpoint = (await attack.log.place.witness(TENANT, attack.log.signers)).attested
    seq = int(path.stem)
    path.write_bytes(checkpoint[seq].sign(ControlKeys.generate()))
    return S.UNVERIFIABLE


def _checkpoint(attack: Attack) -> Any:
    name = checkpoint_name(TENANT, attack.dice.choice(attack.attested))
    return attack.log.directory / name


MUTATIONS: Mapping[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        a_byte_of_the_text,
        the_number,
        the_link,
        the_mac,
        the_time,
        an_entry_taken_out,
        two_entries_swapped,
        two_texts_swapped,
        an_entry_twice,
        a_forged_entry,
        a_forged_entry_with_the_key,
        the_tail_cut,
        the_tail_cut_with_the_head,
        the_tail_written_anew,
        everything_written_anew,
        another_tenants_entry,
        a_forged_anchor,
        an_anchor_with_the_key,
        a_shorter_retention,
        a_connection_put_back,
        a_salt_taken_away,
        another_audit_key,
        a_checkpoint_altered,
        a_checkpoint_taken_away,
        a_forged_checkpoint,
    )
}
