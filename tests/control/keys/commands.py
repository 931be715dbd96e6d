"""``aura keys`` in this process, and in one that kills itself."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aura_control.cli import main
from tests.control.keys.sealed_world import SealedWorld
from tests.e2e.programs import own_environment

Run = Callable[..., Awaitable[Any]]


def environment(world: SealedWorld, **more: str) -> dict[str, str]:
    return {
        "AURA_DATA_DIR": str(world.settings.data_dir),
        "AURA_DATABASE_URL": world.settings.database,
        **more,
    }


@pytest.fixture
def keys(
    world: SealedWorld, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs ``aura keys`` in a thread of this process; what it answers."""

    async def run(
        *arguments: str, exits: int = 0, as_json: bool = True, group: str = "keys", **more: str
    ) -> Any:
        command = [group, *arguments, *(["--json"] if as_json else [])]
        with monkeypatch.context() as patch:
            for name, value in environment(world, **more).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["aura", *command])
            code = await asyncio.to_thread(_exit_code)
        said = capfd.readouterr()
        assert code == exits, (said.out, said.err)
        return json.loads(said.out) if as_json else said.out

    return run


def _exit_code() -> int:
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def states(world: SealedWorld) -> dict[str, str]:
    return {kid: str(state) for kid, state in world.file.read().states.items()}


def killed(world: SealedWorld, step: str, *arguments: str, **more: str) -> None:
    """Runs ``aura keys`` as a process that kills itself at the step."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.control.keys.dying", *step.split(), "keys", *arguments],
        env=own_environment(**environment(world, **more)),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
