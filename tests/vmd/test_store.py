"""The sealed messages on disk: round trip, damage, and the revision rule as a state machine."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aura_core.errors import RevisionConflict, StaleRevision
from aura_core.wire import Op, Push, VmKeys, parse_push
from aura_vmd.files import TEMPORARY, read_nofollow, write_durably
from aura_vmd.store import Held, Store
from tests.vmd.control_plane import Control, until
from tests.vmd.harness import Provider, binding, credential, enrolled, policy, running

SUBJECTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,40}", fullmatch=True)


def known_control() -> tuple[Control, VmKeys]:
    control, keys = Control(), VmKeys.generate()
    control.know(keys)
    return control, keys


def opened(path: Path) -> tuple[Store, list[Push]]:
    found: list[Push] = []
    store = Store(directory=path / "sealed", damaged=path / "damaged")
    store.load(found.append)
    return store, found


@settings(max_examples=25, deadline=None)
@given(
    kept=st.dictionaries(
        SUBJECTS, st.tuples(st.integers(1, 2**53 - 1), st.binary(max_size=300)), max_size=5
    )
)
def test_what_is_written_is_what_is_loaded(kept: dict[str, tuple[int, bytes]]) -> None:
    control, keys = known_control()
    with tempfile.TemporaryDirectory() as name:
        store, _ = opened(Path(name))
        for subject, (revision, plaintext) in kept.items():
            raw = control.seal(subject, plaintext, revision=revision)
            store.write(parse_push(raw), raw)
        again, found = opened(Path(name))
        assert again.held == store.held
        assert again.revisions() == {subject: revision for subject, (revision, _) in kept.items()}
        assert {p.header.connection_id: p.open(keys) for p in found} == {
            subject: plaintext for subject, (_, plaintext) in kept.items()
        }


class RevisionRule(RuleBasedStateMachine):
    """The store against a model: revisions never fall, and equal ones never change."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.control, _ = known_control()
        self.store, _ = opened(self.path)
        self.model: dict[str, bytes] = {}
        self.sent: list[bytes] = []

    @rule(
        subject=st.sampled_from(["a", "b"]),
        revision=st.integers(1, 6),
        op=st.sampled_from(["put", "delete"]),
    )
    def receive(self, subject: str, revision: int, op: Op) -> None:
        self._receive(self.control.seal(subject, b"", revision=revision, op=op))

    @rule(data=st.data())
    def receive_again(self, data: st.DataObject) -> None:
        if self.sent:
            self._receive(data.draw(st.sampled_from(self.sent)))

    @rule()
    def restart(self) -> None:
        self.store, _ = opened(self.path)

    def _receive(self, raw: bytes) -> None:
        self.sent.append(raw)
        push = parse_push(raw)
        subject = push.header.connection_id
        held = self.store.held.get(subject)
        before = self.model.get(subject)
        stored = parse_push(before).header.revision if before else 0
        known: dict[str, Any] = {
            "stored": held.revision if held else None,
            "stored_digest": held.digest if held else None,
        }
        if push.header.revision > stored:
            assert push.check_revision(**known)
            self.store.write(push, raw)
            self.model[subject] = raw
        elif raw == before:
            assert not push.check_revision(**known)
        else:
            refused = StaleRevision if push.header.revision < stored else RevisionConflict
            with pytest.raises(refused) as raised:
                push.check_revision(**known)
            assert vars(raised.value)["stored"] == stored

    @invariant()
    def disk_is_as_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        files = {p.stem: p.read_bytes() for p in (self.path / "sealed").iterdir()}
        assert files == self.model
        assert dict(self.store.held) == {
            subject: Held(
                op=parse_push(raw).header.op,
                revision=parse_push(raw).header.revision,
                digest=parse_push(raw).digest,
            )
            for subject, raw in self.model.items()
        }

    def teardown(self) -> None:
        if hasattr(self, "path"):
            shutil.rmtree(self.path)


TestRevisionRule = RevisionRule.TestCase
TestRevisionRule.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_a_write_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_durably(target, b"one")
    target_directory = tmp_path / "directory"
    target_directory.mkdir()
    (target_directory / "x").touch()
    with pytest.raises(OSError, match="irectory"):
        write_durably(target_directory, b"two")
    assert target.read_bytes() == b"one"
    assert target.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic links"):
        read_nofollow(tmp_path / "link", limit=10)
    with pytest.raises(OSError, match="larger"):
        read_nofollow(tmp_path / "real", limit=0)


async def test_a_damaged_file_is_set_aside_reported_and_pulled_again(
    root: Path, control: Control, provider: Provider
) -> None:
    async with enrolled(root, control) as machine:
        control.want("c-1", credential(binding(provider.url)), revision=5)
        control.want("policy", policy("email:read"), revision=5)
        await until(lambda: {"c-1", "policy"} <= control.acked.keys(), changed=control.changed)
        kept = machine.settings.layout.state / "sealed"
    (kept / "c-1.json").write_bytes((kept / "c-1.json").read_bytes()[:-40])
    (kept / f"{TEMPORARY}torn").write_bytes(b"half")
    control.acked.clear()
    control.down = True
    async with running(root, control) as machine:
        assert (await machine.health())[1]["status"] == "degraded"
        assert not (kept / "c-1.json").exists()
        assert not (kept / f"{TEMPORARY}torn").exists()
        assert (kept.parent / "damaged" / "c-1.json").exists()
        control.down = False
        await until(lambda: "c-1" in control.acked, changed=control.changed)
        assert (await machine.health())[1]["status"] == "ok"
    assert parse_push((kept / "c-1.json").read_bytes()).header.revision == 5


@pytest.mark.parametrize("damage", ["other name", "another signer", "not opening", "link"])
async def test_what_could_not_have_been_accepted_is_not_believed_from_disk(
    root: Path, control: Control, damage: str
) -> None:
    async with enrolled(root, control) as machine:
        await machine.deliver("policy", policy("email:read"))
        kept = machine.settings.layout.state / "sealed"
    path = kept / "policy.json"
    if damage == "other name":
        path.rename(kept / "c-1.json")
    elif damage == "another signer":
        document = json.loads(path.read_bytes())
        document["sig"] = "A" * len(document["sig"])
        path.write_text(json.dumps(document))
    elif damage == "link":
        path.rename(kept.parent / "elsewhere")
        path.symlink_to(kept.parent / "elsewhere")
    else:
        path.write_bytes(control.seal("policy", b"[]", revision=9))
    async with enrolled(root, control):
        assert control.heartbeats[-1]["revisions"] == {}
        store = control.heartbeats[-1]["health"]["store"]
        assert store["damaged"] == ["c-1" if damage == "other name" else "policy"]
