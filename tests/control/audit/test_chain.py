"""The walk along a chain computes what was written, and an anchor proves itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_control.db.chain import Anchor, AuditState, Chain, Link, canonical_json, entry_mac

AT = "2026-03-01T12:00:00.000000+00:00"
KEY = bytes(range(32))


def link(seq: int, prev: str, text: str) -> Link:
    document: dict[str, object] = {
        "action_type": "x",
        "actor": text,
        "agent_id": None,
        "at": AT,
        "metadata": {},
    }
    entry = canonical_json(document)
    mac = entry_mac(KEY, tenant_id="t1", seq=seq, prev=prev, entry=entry)
    return Link(seq, prev.encode(), mac.encode(), entry.encode(), AT.encode())


@given(st.integers(1, 2**62), st.binary(min_size=32, max_size=32), st.text(max_size=50))
def test_the_walk_computes_what_was_written(seq: int, prev: bytes, text: str) -> None:
    entry = link(seq, prev.hex(), text.encode(errors="replace").decode())
    chain = Chain(tenant_id="t1", key=KEY, seq=seq - 1, mac=prev.hex().encode())
    assert chain.take(entry) is None
    assert (chain.seq, chain.mac, chain.last) == (seq, entry.mac, entry.entry)
    another = Chain(tenant_id="t2", key=KEY, seq=seq - 1, mac=prev.hex().encode())
    assert another.take(entry) is AuditState.ALTERED


@pytest.mark.parametrize(
    "entry", [b"", b"\xff\xfe", b"null", b'"envelope_digest"', b'{"action_type":"audit.x"}']
)
def test_bytes_that_are_no_entry_are_found_even_without_the_key(entry: bytes) -> None:
    chain = Chain(tenant_id="t1", key=None)
    made = Link(1, chain.mac, b"", entry, AT.encode())
    assert chain.take(made) is AuditState.ALTERED


def test_each_field_of_an_anchor_is_proven() -> None:
    anchor = Anchor(tenant_id="t1").sealed(KEY)
    assert anchor.proves(KEY)
    assert not anchor.proves(bytes(32))
    for change in (
        {"tenant_id": "t2"}, {"seq": 1}, {"mac": "1" * 64}, {"retention_days": 1},
        {"written": '{"x":[1,null]}'}, {"proof": ""}, {"proof": "ä"},
    ):  # fmt: skip
        assert not replace(anchor, **change).proves(KEY)
