"""What the steps share: the programs they talk to, and how they tell what they see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


class StepFailed(Exception):
    """A step did not end as it should; the message says what was seen."""


@dataclass(kw_only=True)
class Story:
    """What the steps hand to one another."""

    home: Path
    twin: str = ""
    url: str = ""
    api: httpx.Client = field(default_factory=httpx.Client)
    agent_id: str = ""
    connection: dict[str, Any] = field(default_factory=dict)

    def call(self, method: str, path: str, **options: Any) -> Any:
        response = self.api.request(method, path, **options)
        if response.is_error:
            raise StepFailed(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response.json() if response.content else None

    def machines(self) -> Iterator[Path]:
        """The machines of the local compute: directories."""
        return (self.home / "data" / "machines").glob("aura-*")

    @property
    def machine(self) -> Path:
        """The agent's machine."""
        return next(self.machines())


def aura(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("aura")), *arguments]


def say(text: str) -> None:
    console.print(f"  {text}")


@contextmanager
def program(
    name: str, command: list[str], home: Path, **environment: str
) -> Iterator[dict[str, Any]]:
    """A program for as long as the block runs; its first document on standard output is yielded."""
    log = (home / f"{name}.log").open("wb")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **environment}, text=True
    )
    try:
        yield _first_document(process, name, home)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _first_document(process: subprocess.Popen[str], name: str, home: Path) -> dict[str, Any]:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        try:
            document = dict(json.loads(text))
        except ValueError:
            continue
        if "title" in document:
            raise StepFailed(f"{name}: {document['title']} {document.get('hint') or ''}")
        return document
    tail = (home / f"{name}.log").read_text()[-2000:]
    raise StepFailed(f"{name} ended before it was ready:\n{tail}")


def until(what: str, look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Look until there is something to see. Used where a file, not an event, tells."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise StepFailed(f"no {what} within {seconds:.0f} seconds")
