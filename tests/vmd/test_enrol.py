"""Joining: once, repeated until it succeeds, and with one pair of keys for ever."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from aura_core.errors import ConfigurationError
from aura_vmd import enrol as enrolling
from aura_vmd.app import create_app
from aura_vmd.enrol import load_enrolment, load_or_make_keys
from tests.vmd.control_plane import GATEWAY_TOKEN, JOIN_TOKEN, Control, until
from tests.vmd.harness import Machine, enrolled, running, write_settings


async def test_enrolling_leaves_keys_the_sealed_answer_and_no_token(machine: Machine) -> None:
    layout = machine.settings.layout
    assert not layout.join_token.exists()
    assert layout.enrolled_file.exists()
    for name in ("keys.json", "enrolment.json"):
        assert (layout.state / name).stat().st_mode & 0o777 == 0o600
    assert GATEWAY_TOKEN.encode() not in (layout.state / "enrolment.json").read_bytes()
    assert layout.state.stat().st_mode & 0o777 == 0o700


async def test_a_restart_does_not_join_again(root: Path, control: Control) -> None:
    async with enrolled(root, control):
        keys = (root / "var/lib/aura/keys.json").read_bytes()
    async with enrolled(root, control):
        assert control.joins == 1
        assert (root / "var/lib/aura/keys.json").read_bytes() == keys


async def test_a_lost_answer_is_harmless(root: Path, control: Control) -> None:
    async with enrolled(root, control):
        pass
    (root / "var/lib/aura/enrolment.json").write_bytes(b"torn")
    async with enrolled(root, control):
        assert control.joins == 2


async def test_joining_is_tried_again(
    root: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolling, "_FIRST_DELAY", 0.01)
    control.refuse_join = 503
    async with running(root, control) as machine:
        await until(lambda: control.joins >= 3, changed=control.changed)
        assert (await machine.health()) == (200, {"status": "enrolling"})
        assert (await machine.push("c-1", b"{}"))[0] == 401
        assert not machine.settings.layout.enrolled_file.exists()
        assert machine.settings.layout.join_token.exists()
        control.refuse_join = None
        await until(lambda: control.heartbeats, changed=control.changed)
        assert (await machine.health())[1] == {"status": "ok"}


async def test_a_refusal_says_what_the_control_plane_said_and_no_token(
    root: Path,
    control: Control,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control.refuse_join = 403
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", lambda _: control.changed.set())
    monkeypatch.setattr(logging.getLogger("aura_vmd.enrol"), "handlers", [listener])
    with caplog.at_level(logging.WARNING):
        async with running(root, control):
            await until(lambda: "No such instance." in caplog.text, changed=control.changed)
    assert JOIN_TOKEN not in caplog.text


async def test_damaged_keys_are_not_replaced(root: Path, control: Control) -> None:
    settings = write_settings(root, control)
    (settings.layout.state / "keys.json").write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match="keys"):
        create_app(settings)


async def test_an_answer_for_another_machine_is_not_used(root: Path, control: Control) -> None:
    async with enrolled(root, control):
        pass
    settings = write_settings(root, control)
    (settings.layout.state / "keys.json").unlink()
    assert load_enrolment(settings, load_or_make_keys(settings)) is None
