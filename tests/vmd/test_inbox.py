"""Each check of a message, and that they come in their order."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from aura_core.wire import ControlKeys, VmKeys, parse_push, push_digest, verify_ack
from aura_vmd.inbox import Inbox
from tests.vmd.control_plane import GATEWAY_TOKEN, INSTANCE, Control, until
from tests.vmd.harness import Machine, binding, credential, enrolled, policy

URL = "https://api.example.com"
PLAIN = credential(binding(URL))


def sealed(machine: Machine, subject: str = "c-1") -> Path:
    return machine.settings.layout.state / "sealed" / f"{subject}.json"


def tampered(message: bytes) -> bytes:
    document = json.loads(message)
    document["header"]["revision"] += 1
    return json.dumps(document).encode()


async def test_a_good_message_is_kept_sealed_and_acknowledged(
    machine: Machine, control: Control
) -> None:
    message = control.seal("c-1", PLAIN, revision=10)
    status, document = await machine.push("c-1", message)
    assert status == 200
    assert control.machine is not None
    ack = verify_ack(document, control.machine.sig_public)
    assert (ack.instance_id, ack.connection_id, ack.revision) == (INSTANCE, "c-1", 10)
    assert ack.digest == push_digest(message)
    assert sealed(machine).read_bytes() == message
    assert sealed(machine).stat().st_mode & 0o777 == 0o600


async def test_nothing_plain_reaches_the_disk(connected: Machine) -> None:
    async with connected.broker() as broker, broker.get("/v1/mailer/mail/1") as answer:
        assert answer.status == 200
    written = [path for path in connected.root.rglob("*") if path.is_file()]
    assert sealed(connected) in written
    secrets = (b"ya29", GATEWAY_TOKEN.encode())
    assert [p for p in written if any(s in p.read_bytes() for s in secrets)] == []


async def test_size(machine: Machine) -> None:
    status, document = await machine.push("c-1", b"x" * (64 * 1024 + 1))
    assert (status, document["type"]) == (413, "urn:aura:problem:message-too-large")


@pytest.mark.parametrize("bearer", [None, "", "wrong", GATEWAY_TOKEN + "x", GATEWAY_TOKEN[:-1]])
async def test_bearer(machine: Machine, control: Control, bearer: str | None) -> None:
    status, document = await machine.push(
        "c-1", control.seal("c-1", PLAIN, revision=1), bearer=bearer
    )
    assert (status, document["type"]) == (401, "urn:aura:problem:bearer-rejected")
    assert not sealed(machine).exists()


async def test_malformed(machine: Machine) -> None:
    status, document = await machine.push("c-1", b'{"header": {}}')
    assert (status, document["type"]) == (400, "urn:aura:problem:malformed-message")


async def test_signature_by_another_key(machine: Machine, control: Control) -> None:
    message = control.seal("c-1", PLAIN, revision=1, signer=ControlKeys.generate())
    status, document = await machine.push("c-1", message)
    assert (status, document["type"]) == (403, "urn:aura:problem:signature-invalid")


async def test_signature_over_something_else(machine: Machine, control: Control) -> None:
    message = tampered(control.seal("c-1", PLAIN, revision=1))
    assert (await machine.push("c-1", message))[0] == 403
    assert not sealed(machine).exists()


async def test_recipient_of_another_instance(machine: Machine, control: Control) -> None:
    message = control.seal("c-1", PLAIN, revision=1, instance="instance-2")
    status, document = await machine.push("c-1", message)
    assert (status, document["type"]) == (421, "urn:aura:problem:wrong-recipient")


async def test_recipient_with_another_key(machine: Machine, control: Control) -> None:
    other = VmKeys.generate().enc_public
    message = control.seal("c-1", PLAIN, revision=1, recipient=other)
    assert (await machine.push("c-1", message))[0] == 421


async def test_recipient_of_another_subject(machine: Machine, control: Control) -> None:
    assert (await machine.push("c-2", control.seal("c-1", PLAIN, revision=1)))[0] == 421
    assert not sealed(machine).exists()


async def test_a_lower_revision_is_answered_with_the_stored_one(
    machine: Machine, control: Control
) -> None:
    await machine.push("c-1", control.seal("c-1", PLAIN, revision=10))
    before = sealed(machine).read_bytes()
    status, document = await machine.push("c-1", control.seal("c-1", PLAIN, revision=9))
    assert (status, document["type"]) == (409, "urn:aura:problem:stale-revision")
    assert document["stored"] == 10
    assert sealed(machine).read_bytes() == before


async def test_the_same_message_again_is_acknowledged_and_not_rewritten(
    machine: Machine, control: Control
) -> None:
    message = control.seal("c-1", PLAIN, revision=10)
    await machine.push("c-1", message)
    before = sealed(machine).stat()
    status, document = await machine.push("c-1", message)
    assert status == 200
    assert document["digest"] == push_digest(message)
    after = sealed(machine).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_another_message_of_the_same_revision_raises_the_alarm(
    machine: Machine, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    first = control.seal("c-1", PLAIN, revision=10)
    await machine.push("c-1", first)
    with caplog.at_level(logging.CRITICAL):
        status, document = await machine.push("c-1", control.seal("c-1", PLAIN, revision=10))
    assert (status, document["type"]) == (409, "urn:aura:problem:revision-conflict")
    assert document["stored"] == 10
    assert any("ALARM" in record.message for record in caplog.records)
    assert sealed(machine).read_bytes() == first
    report = machine.control.heartbeats
    seen = len(report)
    await until(lambda: len(report) > seen, changed=control.changed)
    assert report[-1]["health"]["store"]["conflicts"] == 1


async def test_what_does_not_open(machine: Machine, control: Control) -> None:
    # Signed by the control plane and addressed to this machine, but sealed to another key.
    good = parse_push(control.seal("c-1", PLAIN, revision=1))
    other = control.seal("c-1", PLAIN, revision=1, recipient=VmKeys.generate().enc_public)
    from aura_core.encoding import b64url

    wrong = parse_push(other).sealed
    sig = control.keys.sign(b"aura-push-sig/v1" + good.header_lp + wrong)
    document = json.loads(control.seal("c-1", PLAIN, revision=1))
    document["header"] = {name: getattr(good.header, name) for name in document["header"]}
    document |= {"sealed": b64url(wrong), "sig": b64url(sig)}
    status, answer = await machine.push("c-1", json.dumps(document).encode())
    assert (status, answer["type"]) == (422, "urn:aura:problem:envelope-error")
    assert not sealed(machine).exists()


@pytest.mark.parametrize(
    ("subject", "plaintext"),
    [
        ("c-1", b"not json"),
        ("c-1", policy("email:send")),
        ("policy", PLAIN),
        ("policy", b'{"kind":"policy","scopes":["email:send"],"more":1}'),
        ("c-2", PLAIN),
        ("c-1", PLAIN.replace(b'"provider":"mailer"', b'"provider":"other"', 1)),
        ("skill:mail", b'{"kind":"skill","dir":"mail","archive":"AAAA"}'),
        ("skill:mail", b'{"kind":"skill","dir":"other","archive":"AAAA"}'),
    ],
)
async def test_a_content_comes_only_under_the_subject_that_may_carry_it(
    machine: Machine, control: Control, subject: str, plaintext: bytes
) -> None:
    status, document = await machine.push(subject, control.seal(subject, plaintext, revision=5))
    assert (status, document["type"]) == (400, "urn:aura:problem:malformed-message")
    assert not sealed(machine, subject).exists()


async def test_a_delete_leaves_a_tombstone_that_keeps_its_revision(
    machine: Machine, control: Control
) -> None:
    put = control.seal("c-1", PLAIN, revision=10)
    await machine.push("c-1", put)
    status, document = await machine.push("c-1", control.seal("c-1", b"", revision=11, op="delete"))
    assert (status, document["revision"]) == (200, 11)
    async with machine.broker() as broker, broker.get("/v1/mailer/mail/1") as answer:
        assert answer.status == 404
    assert (await machine.push("c-1", put))[1]["stored"] == 11
    assert parse_push(sealed(machine).read_bytes()).header.op == "delete"


async def test_a_tombstone_outlives_a_restart(root: Path, control: Control) -> None:
    async with enrolled(root, control) as machine:
        put = control.seal("c-1", PLAIN, revision=10)
        await machine.push("c-1", put)
        await machine.push("c-1", control.seal("c-1", b"", revision=11, op="delete"))
    async with enrolled(root, control) as machine:
        assert (await machine.push("c-1", put))[1]["stored"] == 11


async def test_order_size_before_bearer(machine: Machine) -> None:
    assert (await machine.push("c-1", b"x" * 70_000, bearer="wrong"))[0] == 413


async def test_order_bearer_before_form(machine: Machine) -> None:
    assert (await machine.push("c-1", b"not json", bearer="wrong"))[0] == 401


async def test_order_signature_before_recipient(machine: Machine, control: Control) -> None:
    message = control.seal(
        "c-1", PLAIN, revision=1, instance="instance-2", signer=ControlKeys.generate()
    )
    assert (await machine.push("c-1", message))[0] == 403


async def test_order_signature_before_revision(machine: Machine, control: Control) -> None:
    await machine.push("c-1", control.seal("c-1", PLAIN, revision=10))
    stale = control.seal("c-1", PLAIN, revision=9, signer=ControlKeys.generate())
    status, document = await machine.push("c-1", stale)
    assert status == 403
    assert "stored" not in document


async def test_order_recipient_before_revision(machine: Machine, control: Control) -> None:
    await machine.push("c-1", control.seal("c-1", PLAIN, revision=10))
    other = VmKeys.generate().enc_public
    message = control.seal("c-1", PLAIN, revision=9, recipient=other)
    assert (await machine.push("c-1", message))[0] == 421


async def test_order_revision_before_opening(machine: Machine, control: Control) -> None:
    await machine.push("c-1", control.seal("c-1", PLAIN, revision=10))
    assert (await machine.push("c-1", control.seal("c-1", b"not json", revision=9)))[0] == 409


async def test_order_writing_before_acknowledging(machine: Machine, control: Control) -> None:
    # A directory in the file's place: the rename fails, so nobody may believe that it is held.
    sealed(machine).mkdir()
    (sealed(machine) / "x").touch()
    message = control.seal("c-1", PLAIN, revision=1)
    status, document = await machine.push("c-1", message)
    assert status == 500
    assert "sig" not in document
    async with machine.broker() as broker, broker.get("/v1/mailer/mail/1") as answer:
        assert answer.status == 404
    (sealed(machine) / "x").unlink()
    sealed(machine).rmdir()
    assert (await machine.push("c-1", message))[0] == 200


async def test_the_daemon_ends_when_nobody_can_bring_a_message_and_all_are_written(
    root: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Inbox.settle
    reachable: list[bool] = []

    async def watched(inbox: Inbox) -> None:
        reachable.append((root / "run/aura/listen.json").exists())
        await settle(inbox)

    monkeypatch.setattr(Inbox, "settle", watched)
    async with enrolled(root, control) as machine:
        assert machine.settings.layout.listen_file == root / "run/aura/listen.json"
        assert machine.settings.layout.listen_file.exists()
    assert reachable == [False]
