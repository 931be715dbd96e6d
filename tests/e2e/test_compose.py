"""``aura compose`` shows what a machine would boot from; the fast tier sees what it composes."""

from __future__ import annotations

import json
from pathlib import Path

from cloudinit_templates import MAX_USER_DATA
from tests.cloudinit import fast_tier
from tests.e2e.programs import run_aura


def test_the_document_is_written_and_can_be_checked(home: Path, composed_in_tests: Path) -> None:
    before = {*composed_in_tests.iterdir()}
    out = home / "user-data"
    arguments = ("compose", "google", "elevenlabs", "--out", str(out), "--json")
    done = run_aura(*arguments, AURA_DATA_DIR=str(home / "data"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    user_data = out.read_text()
    assert said["size"] == len(user_data) <= said["limit"] == MAX_USER_DATA
    assert said["skills"] == ["google-workspace-skill"]
    assert "hostname" in fast_tier.decode(user_data)
    assert len({*composed_in_tests.iterdir()} - before) == 1


def test_what_cannot_be_composed_is_said(home: Path) -> None:
    done = run_aura("compose", "nobody", AURA_DATA_DIR=str(home / "data"))
    assert done.returncode != 0
    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr
