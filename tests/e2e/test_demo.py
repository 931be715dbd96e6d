"""The demonstration is run as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.postgres import running_postgres

ROOT = Path(__file__).parents[2]


def test_the_demonstration_ends_well_and_leaves_nothing_running() -> None:
    demonstrate({})


def test_it_runs_the_same_on_postgresql() -> None:
    with running_postgres() as server:
        demonstrate({"AURA_DATABASE_URL": server.create(), "AURA_DURABLE_URL": server.create()})


def demonstrate(settings: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for seen in (
        "robin@example.com is connected",
        "of 32768 bytes of user-data",
        "google's access token: revision",
        "the agent searched the mailbox: 1 unread",
        "it needs the scope email:send",
        "no token in any",
        "runtime ready",
        "refresh_token: revoked at the provider",
        "wiped at",
        "nothing is left running",
    ):
        assert seen in run.stdout
    assert run.stdout.count("revoked at the provider") == 2
