"""Checkpoints: what they say, who signed it, and where they are kept."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.checkpoints import Checkpoint, FileCheckpoints, checkpoint_name
from aura_core.errors import ConfigurationError, Conflict, MalformedMessage, SignatureInvalid
from aura_core.wire import ControlKeys

KEYS = ControlKeys.generate()
SIGNERS = {KEYS.signer_kid: KEYS.sig_public}
AT = "2026-03-01T12:00:00.000000+00:00"


def checkpoint(seq: int = 100, mac: str = "ab" * 32, previous: int = 0) -> Checkpoint:
    return Checkpoint(tenant_id="t1", seq=seq, mac=mac, at=AT, previous=previous)


@given(seq=st.integers(2, 2**53 - 1), mac=st.binary(min_size=32, max_size=32))
def test_what_was_signed_is_read_again_and_always_the_same(seq: int, mac: bytes) -> None:
    made = checkpoint(seq, mac.hex(), previous=seq - 1)
    assert made.sign(KEYS) == made.sign(KEYS)
    assert Checkpoint.verify(made.sign(KEYS), SIGNERS) == made
    assert json.loads(made.sign(KEYS))["signer_kid"] == KEYS.signer_kid


@pytest.mark.parametrize(
    "change",
    [{"tenant_id": "t2"}, {"seq": 101}, {"mac": "cd" * 32}, {"previous": 1},
     {"at": "2026-03-01T12:00:00.000001+00:00"}],
)  # fmt: skip
def test_each_field_is_signed(change: dict[str, object]) -> None:
    document = {**json.loads(checkpoint().sign(KEYS)), **change}
    with pytest.raises(SignatureInvalid):
        Checkpoint.verify(json.dumps(document).encode(), SIGNERS)


def test_a_stranger_and_a_borrowed_id_do_not_verify() -> None:
    stranger = ControlKeys.generate()
    raw = checkpoint().sign(stranger)
    with pytest.raises(SignatureInvalid):
        Checkpoint.verify(raw, SIGNERS)
    document = {**json.loads(raw), "signer_kid": KEYS.signer_kid}
    with pytest.raises(SignatureInvalid):
        Checkpoint.verify(json.dumps(document).encode(), SIGNERS)
    assert Checkpoint.verify(raw, {**SIGNERS, stranger.signer_kid: stranger.sig_public})


def test_a_signature_for_something_else_is_none() -> None:
    """Everything that the control plane signs begins with a label of its own."""
    document = json.loads(checkpoint().sign(KEYS))
    assert KEYS.sign(b"x") != document["sig"]
    for raw in (b"", b"[]", b"{}", b"\xff", b"{" * 5000, json.dumps({**document, "v": 2}).encode()):
        with pytest.raises(MalformedMessage):
            Checkpoint.verify(raw, SIGNERS)


@pytest.mark.parametrize(
    "change",
    [{"tenant_id": "../t"}, {"tenant_id": ""}, {"seq": 0}, {"seq": True}, {"seq": 2**53},
     {"mac": "AB" * 32}, {"at": "yesterday"}, {"at": '2026-03-01T12:00:00.000000+00:00"'},
     {"previous": 100}, {"previous": -1}],
)  # fmt: skip
def test_values_check_themselves(change: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        replace(checkpoint(), **change)  # type: ignore[arg-type]


def test_files_are_kept_once_for_their_owner(tmp_path: Path) -> None:
    store, place = FileCheckpoints(), (tmp_path / "a b").as_uri()
    assert store.get(place, checkpoint().name) is None
    assert [*store.names(place, "")] == []
    for seq in (200, 100, 100):
        store.put(place, checkpoint_name("t1", seq), b"%d" % seq)
    store.put(place, checkpoint_name("t2", 1), b"")
    with pytest.raises(Conflict):
        store.put(place, checkpoint_name("t1", 100), b"other")
    assert store.get(place, checkpoint_name("t1", 100)) == b"100"
    assert [*store.names(place, "t1/")] == [checkpoint_name("t1", seq) for seq in (100, 200)]
    assert len([*store.names(place, "")]) == 3
    files = [path for path in (tmp_path / "a b").rglob("*") if path.is_file()]
    assert len(files) == 3  # and nothing temporary
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("name", ["../x", "t1/../../x", "t1/1.json", "/etc/passwd", ""])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        FileCheckpoints().put(tmp_path.as_uri(), name, b"")


@pytest.mark.parametrize("place", ["s3://bucket/x", "file://host/x", "file:relative", "x"])
def test_a_place_is_a_directory_of_this_machine(place: str) -> None:
    with pytest.raises(ConfigurationError):
        FileCheckpoints().get(place, checkpoint().name)


def test_a_place_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = (tmp_path / "file" / "x").as_uri()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        FileCheckpoints().put(place, checkpoint().name, b"")
