"""Real programs, started and ended as an operator would: they announce themselves by one JSON
document on standard output, log to a file, and end by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from aura_control.bootstrap import add_user, load_vault, open_database
from aura_control.settings import load_settings

__all__ = [
    "ControlPlane",
    "announcement",
    "aura",
    "control_plane",
    "own_environment",
    "program",
    "run_aura",
]

_ENDS_WITHIN = 60.0
"""Seconds that a program gets to end by itself."""


def own_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what it says of Aura, and with ``variables``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    return {**inherited, **variables}


def aura(*arguments: str) -> list[str]:
    """The installed command line."""
    return [str(Path(sys.executable).with_name("aura")), *arguments]


def run_aura(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever its exit code."""
    return subprocess.run(
        aura(*arguments),
        env=own_environment(**variables),
        capture_output=True,
        text=True,
        timeout=_ENDS_WITHIN,
        check=False,
    )


@contextmanager
def program(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """A program for as long as the block runs; what it announces is yielded."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield announcement(process, log)
        finally:
            code = _end(process)
    assert code in (0, -signal.SIGTERM), f"{command[0]} ended with {code}:\n{_tail(log)}"


def announcement(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """The first document on the program's standard output."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        try:
            return dict(json.loads(text))
        except ValueError:
            continue
    raise AssertionError(f"ended before it announced itself: {text}\n{_tail(log)}")


def _end(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    process.terminate()
    try:
        return process.wait(timeout=_ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        process.stdout.close()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """A running ``aura up``: ``api`` speaks for its owner."""

    url: str
    token: str = field(repr=False)
    data_dir: Path
    log: Path
    api: httpx.Client = field(repr=False)

    def client(self, token: str | None) -> httpx.Client:
        """A client for somebody else, or for nobody. The caller closes it."""
        return _client(self.url, token)

    def add_user(self, email: str) -> str:
        """Adds a user with a tenant of their own, as ``aura users add`` does; answers the token."""
        return asyncio.run(_add_user(self.data_dir, email))


async def _add_user(data_dir: Path, email: str) -> str:
    settings = load_settings(
        data_dir=data_dir, database_url=None, master_keys=None, master_keys_file=None
    )
    database = open_database(settings, load_vault(settings))
    try:
        return (await add_user(database, tenant_name=email, email=email)).token
    finally:
        await database.close()


def _client(url: str, token: str | None) -> httpx.Client:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


@contextmanager
def control_plane(home: Path, **variables: str) -> Iterator[ControlPlane]:
    """``aura up`` on a free port, with its data in ``home``/data. Starting again in the same home
    goes on with the same data; the log is kept too."""
    data_dir, log = home / "data", home / "aura.log"
    command = aura("up", "--json", "--port", "0", "--data-dir", str(data_dir))
    with (
        program(command, log=log, environment=own_environment(**variables)) as said,
        _client(said["url"], said["token"]) as api,
    ):
        yield ControlPlane(
            url=said["url"], token=said["token"], data_dir=data_dir, log=log, api=api
        )
