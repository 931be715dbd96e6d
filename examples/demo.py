"""The whole path on one machine, with real processes: connect, deploy, work, look, disconnect.

Only the provider is a stand-in: a twin of Google, made from its manifest and served on loopback,
because a demonstration has no account to use. Everything lives in one temporary directory and
nothing is left running. Run it with `make demo`; it exits 0, or 1 naming the step that failed.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
from rich.console import Console

SCOPES = ["email:read", "calendar:read"]
ROUTINES = [
    {
        "name": "inbox",
        "skill": "google-workspace",
        "arguments": ["gmail_search", "--query", "is:unread"],
    },
    {
        "name": "overreach",
        "skill": "google-workspace",
        "arguments": [
            "gmail_send",
            "--to",
            "someone@example.com",
            "--subject",
            "hello",
            "--body",
            "not allowed",
        ],
    },
]

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

    @property
    def machine(self) -> Path:
        """The agent's machine: a directory, for the local compute."""
        return next((self.home / "data" / "machines").iterdir())


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
            return dict(json.loads(text))
        except ValueError:
            continue
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


# --- the steps ---------------------------------------------------------------------------------


def connect(story: Story) -> None:
    """Connect Google by OAuth (authorization code with PKCE)"""
    link = story.call("POST", "/api/integrations/google/link", json={})
    with httpx.Client(follow_redirects=True, timeout=30) as browser:
        consent = browser.get(link["url"])
        say(f"the consent page came from {consent.url.host}:{consent.url.port}: the twin")
        target, fields = _allow(consent)
        done = browser.post(target, data=fields)
    if done.status_code != 200:
        raise StepFailed(f"the callback answered {done.status_code}: {done.text[:300]}")
    rows = story.call("GET", "/api/integrations")["integrations"]
    story.connection = next(row for row in rows if row["provider"] == "google")
    say(f"{story.connection['metadata'].get('email')} is {story.connection['state']}")
    say(f"granted: {', '.join(s.rsplit('/', 1)[-1] for s in story.connection['scopes'])}")


def _allow(page: httpx.Response) -> tuple[str, dict[str, str]]:
    """Where and what the browser sends when a person clicks "Allow"."""
    form = re.search(r'<form[^>]*action="([^"]*)"', page.text)
    if page.status_code != 200 or form is None:
        raise StepFailed(f"no consent page: {page.status_code} {page.text[:300]}")
    fields = re.findall(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', page.text)
    target = urljoin(str(page.url), html.unescape(form.group(1)))
    return target, {html.unescape(name): html.unescape(value) for name, value in fields}


def deploy(story: Story) -> None:
    """Deploy an agent on composed cloud-init"""
    body = {
        "name": "Robin",
        "persona": {"role": "reads the inbox every morning"},
        "permissions": {"scopes": SCOPES},
        "integrations": ["google"],
        "config": {"routines": ROUTINES},
    }
    story.agent_id = story.call("POST", "/api/agents", json=body)["id"]
    path = f"/api/agents/{story.agent_id}/events"
    with story.api.stream("GET", path, headers={"Last-Event-ID": "0"}, timeout=120) as events:
        for kind, data in _events(events.iter_lines()):
            say(f"{data.get('at', '')[11:23]} {kind} {_brief(data)}")
            if data.get("state") == "failed":
                raise StepFailed(str(data.get("reason")))
            if data.get("state") == "running":
                break
    agent = story.call("GET", f"/api/agents/{story.agent_id}")
    instance = agent["instance"]
    say(
        f"composed: {instance['user_data_size']} of 32768 bytes of user-data;"
        f" left to the daemon: {', '.join(instance['left_to_daemon']) or 'nothing'}"
    )


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = "message"
    for line in lines:
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])


def _brief(data: dict[str, Any]) -> str:
    return " ".join(str(data[key]) for key in ("state", "subject", "reason") if data.get(key))


def delivered(story: Story) -> None:
    """Look at what the daemon acknowledged"""

    def all_acknowledged() -> Any:
        agent = story.call("GET", f"/api/agents/{story.agent_id}")
        rows = agent["deliveries"]
        done = rows and all(r["acked_revision"] == r["desired_revision"] for r in rows)
        return rows if done else None

    for row in until("acknowledgement of every delivery", all_acknowledged):
        what = (
            "google's access token" if row["subject"] == story.connection["id"] else row["subject"]
        )
        say(f"{what}: revision {row['acked_revision']} acknowledged at {row['acked_at'][11:23]}")


def work(story: Story) -> None:
    """Let the agent use its skill"""
    journal = story.machine / "var/lib/agent/journal.jsonl"

    def runs() -> dict[str, Any] | None:
        if not journal.exists():
            return None
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        latest = {line["routine"]: line for line in lines}
        read, refused = latest.get("inbox"), latest.get("overreach")
        return latest if read and refused and read["exit_code"] == 0 else None

    latest = until("answer of the skill", runs)
    answer = json.loads(latest["inbox"]["output"])
    messages = answer["messages"] if isinstance(answer, dict) else answer
    say(f"the agent searched the mailbox: {len(messages)} unread")
    for message in messages[:3]:
        say(f"  {message.get('from')}: {message.get('subject')}")
    if latest["overreach"]["exit_code"] == 0:
        raise StepFailed("sending mail was not refused")
    say(f"the agent tried to send mail: {latest['overreach']['error'].strip().splitlines()[0]}")


def no_token(story: Story) -> None:
    """Look for the token everywhere the agent can look"""
    record = json.loads((story.machine / "machine.json").read_text())
    uid = record.get("agent_uid")
    looked, found = 0, []
    for path in story.machine.rglob("*"):
        if path.is_file() and _readable_by(path, uid):
            looked += 1
            if b"twin-at-" in path.read_bytes() or b"twin-rt-" in path.read_bytes():
                found.append(str(path))
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(story.machine).encode() in (text := environ.read_bytes()):
                looked += 1
                if b"twin-at-" in text or b"twin-rt-" in text:
                    found.append(str(environ))
        except OSError:
            continue
    if found:
        raise StepFailed(f"a token was found in {found}")
    who = f"user id {uid}" if uid else "the agent's user (not root here: the same as yours)"
    say(f"{looked} files and environments readable by {who}: no token in any")


def _readable_by(path: Path, uid: int | None) -> bool:
    if uid is None:
        return os.access(path, os.R_OK)
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == uid else 0
    return bool((status.st_mode >> shift) & 4)


def health(story: Story) -> None:
    """Ask for the machine's health"""
    answer = story.call("GET", f"/api/agents/{story.agent_id}/health")
    seen = answer["health"]
    memory, disk = seen["memory"], seen["disk"]
    ready = "ready" if seen["runtime"]["ready"] else "not ready"
    say(f"load {seen['load'][0]:.2f}, runtime {ready}")
    say(
        f"memory {memory['available'] / 2**30:.1f} of {memory['total'] / 2**30:.1f} GiB free,"
        f" disk {disk['free'] / 2**30:.1f} of {disk['total'] / 2**30:.1f} GiB free"
    )
    for provider, state in seen["credentials"].items():
        say(f"{provider}: {state['state']} until {state.get('expires_at')}")


def disconnect(story: Story) -> None:
    """Disconnect, and read the receipt"""
    story.call("DELETE", "/api/integrations/google")

    def wiped() -> Any:
        rows = story.call("GET", "/api/integrations")["integrations"]
        row = next(r for r in rows if r["provider"] == "google")
        receipt = row["receipt"]
        done = all(machine.get("acked_at") for machine in receipt["machines"])
        return receipt if done else None

    receipt = until("wipe of the machine", wiped)
    for token in receipt["tokens"]:
        detail = token.get("detail") or ""
        say(f"{token['token']}: {token['outcome']} at the provider {detail}".rstrip())
    for machine in receipt["machines"]:
        say(f"machine {machine['instance_id'][:8]}: wiped at {machine['acked_at']}")


def destroy(story: Story) -> None:
    """Destroy the agent"""
    machine = story.machine
    story.call("DELETE", f"/api/agents/{story.agent_id}")
    until("end of the machine", lambda: not machine.exists())
    say("its machine is gone")


STEPS = [connect, deploy, delivered, work, no_token, health, disconnect, destroy]


def main() -> int:
    home = Path(tempfile.mkdtemp(prefix="aura-demo-", dir="/tmp"))
    story = Story(home=home)
    name = "start"
    try:
        with ExitStack() as stack:
            console.print("[bold]Start Google's twin and the platform[/]")
            twin = stack.enter_context(
                program("twin", aura("plugins", "twin", "google", "--json"), home)
            )
            platform = stack.enter_context(
                program(
                    "platform",
                    aura("up", "--json", "--port", "0", "--data-dir", str(home / "data")),
                    home,
                    AURA_TWINS=f"google={twin['origin']}",
                    GOOGLE_CLIENT_ID="demo-client",
                    GOOGLE_CLIENT_SECRET="demo-secret",
                )
            )
            story.twin, story.url = twin["origin"], platform["url"]
            say(f"the platform listens at {story.url}")
            story.api = httpx.Client(
                base_url=story.url,
                headers={"Authorization": f"Bearer {platform['token']}"},
                timeout=30,
            )
            stack.callback(story.api.close)
            for step in STEPS:
                name = (step.__doc__ or step.__name__).strip()
                console.print(f"[bold]{name}[/]")
                step(story)
            name = "stop the platform"
    except (StepFailed, httpx.HTTPError, OSError, KeyError, ValueError) as error:
        console.print(f"[bold red]failed[/]: {name}: {error}", markup=True)
        console.print(f"  logs are in {home}")
        return 1
    left = _still_running(home)
    if left:
        console.print(f"[bold red]failed[/]: still running: {left}")
        return 1
    shutil.rmtree(home)
    console.print("[bold green]done[/]: nothing is left running")
    return 0


def _still_running(home: Path) -> list[str]:
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = cmdline.read_bytes()
        except OSError:
            continue
        if str(home).encode() in text and cmdline.parent.name != str(os.getpid()):
            found.append(text.replace(b"\0", b" ").decode(errors="replace").strip())
    return found


if __name__ == "__main__":
    sys.exit(main())
