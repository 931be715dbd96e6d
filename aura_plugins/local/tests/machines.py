"""User-data with small services of the tests' own, and looking at what they do."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aura_core.compute import MachineRequest

JOIN_TOKEN = "join-token-of-this-test-0123456789abcdefghij"
LABELS = {"aura": "test"}

# What a daemon does first: it says where it listens and that it is enrolled.
DAEMON = """
import json, os, pathlib, time
root = pathlib.Path(os.environ["AURA_ROOT"])
(root / "var/lib/aura/secret").write_text("the daemon's secret")
(root / "run/aura/listen.json").write_text(json.dumps({"host": "127.0.0.1", "port": 9}))
(root / "var/lib/aura/pid").write_text(f"{os.getpid()} {os.getuid()} {os.getgroups()}")
(root / "run/aura/enrolled").touch()
while True: time.sleep(60)
"""

# What an agent might try: it writes down what it found out.
AGENT = """
import json, os, pathlib, time
root = pathlib.Path(os.environ["AURA_ROOT"])
def attempt(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError as error:
        return type(error).__name__
found = {
    "pid": os.getpid(), "uid": os.getuid(), "groups": os.getgroups(), "env": dict(os.environ),
    "secret": attempt(root / "var/lib/aura/secret"),
    "token": attempt(root / "etc/aura/join-token"),
    "settings": attempt(root / "etc/aura/vmd.json"),
    "beside": attempt(root.parent.parent / "closed.txt"),
    "skill": attempt(root / "var/lib/agent/skills/x/SKILL.md"),
}
target = root / "var/lib/agent/found.json"
target.with_suffix(".new").write_text(json.dumps(found))
target.with_suffix(".new").rename(target)
while True: time.sleep(60)
"""


def unit(code: str, *, user: str, target: str, **directives: str) -> str:
    lines = {"Restart": "always", "RestartSec": "100ms", **directives}
    return "\n".join(
        [
            "[Service]",
            f"ExecStart=/opt/aura/bin/python {code}",
            f"User={user}",
            *(f"{key}={value}" for key, value in lines.items()),
            "[Install]",
            f"WantedBy={target}",
            "",
        ]
    )


def daemon_unit(path: str = "/var/lib/agent/daemon.py", **directives: str) -> str:
    return unit(path, user="aura", target="multi-user.target", **directives)


def agent_unit(path: str = "/var/lib/agent/agent.py", **directives: str) -> str:
    return unit(path, user="agent", target="aura-agent.target", **directives)


def file(path: str, content: str, owner: str = "root:root", mode: str = "0644") -> dict[str, Any]:
    return {"path": path, "content": content, "owner": owner, "permissions": mode}


def user_data(*files: Mapping[str, Any]) -> str:
    text = "#cloud-config\n" + json.dumps({"write_files": list(files)}, ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def request(name: str = "one", *extra: Mapping[str, Any], **replaced: str) -> MachineRequest:
    """A machine with a daemon and an agent; ``replaced`` gives other content by variable."""
    parts = {"daemon": DAEMON, "agent": AGENT, "daemon_unit": daemon_unit(),
             "agent_unit": agent_unit(), **replaced}  # fmt: skip
    units = "/etc/systemd/system"
    return MachineRequest(
        name=name,
        labels=LABELS,
        user_data=user_data(
            file("/etc/aura/join-token", JOIN_TOKEN, "aura:aura", "0600"),
            file("/etc/aura/vmd.json", "{}", "root:aura", "0640"),
            file("/var/lib/agent/daemon.py", parts["daemon"]),
            file("/var/lib/agent/agent.py", parts["agent"], "agent:agent", "0600"),
            file(f"{units}/aura-vmd.service", parts["daemon_unit"]),
            file(f"{units}/aura-agent-x.service", parts["agent_unit"]),
            file(f"{units}/aura-firewall.service", "[Service]\nExecStart=/bin/false\n"),
            *extra,
        ),
    )


T = TypeVar("T")


async def eventually(look: Callable[[], T], seconds: float = 40) -> T:
    """The first true thing that ``look`` answers; what it misses on the way is tried again."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := look():
                return found
        except (OSError, ValueError):
            pass
        assert time.monotonic() < end, "it did not come to be"
        await asyncio.sleep(0.02)


def found(directory: Path) -> dict[str, Any]:
    """What the agent wrote down."""
    return dict(json.loads((directory / "var/lib/agent/found.json").read_text()))


def daemon_pid(directory: Path) -> int:
    return int((directory / "var/lib/aura/pid").read_text().split()[0])


def supervisor_pid(directory: Path) -> int:
    return int(json.loads((directory / "machine.lock").read_text())["pid"])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def environment(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(entry.split("=", 1) for entry in raw.split("\0") if entry)


def separate() -> bool:
    return os.geteuid() == 0
