"""The steps, in order. Each one's docstring is its headline; it raises StepFailed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from examples.demo.page import Form
from examples.demo.story import StepFailed, Story, say, until

TOKEN = re.compile(rb"\bt[ar]-[A-Za-z0-9_-]{32}")
"""What the twin's access and refresh tokens look like."""

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


def connect(story: Story) -> None:
    """Connect Google by OAuth (authorization code with PKCE)"""
    link = story.call("POST", "/api/integrations/google/link", json={})
    with httpx.Client(follow_redirects=True, timeout=30) as browser:
        question = browser.get(link["url"])
        form = Form(question.text, url=str(question.url))
        if not form.found:
            raise StepFailed(f"the link's page is {question.status_code} {question.text[:300]}")
        say(f"the link asks first: {form.says('h1')} for {form.says('strong')}")
        consent = browser.post(form.target, data=form.fields)
        say(f"the consent page came from {consent.url.host}:{consent.url.port}: the twin")
        form = Form(consent.text, url=str(consent.url))
        if not form.found:
            raise StepFailed(f"no consent page: {consent.status_code} {consent.text[:300]}")
        done = browser.post(form.target, data=form.pressed("decision", "allow"))
    if done.status_code != 200:
        raise StepFailed(f"the callback answered {done.status_code}: {done.text[:300]}")
    rows = story.call("GET", "/api/integrations")["integrations"]
    story.connection = next(row for row in rows if row["provider"] == "google")
    say(f"{story.connection['metadata'].get('email')} is {story.connection['state']}")
    say(f"granted: {', '.join(s.rsplit('/', 1)[-1] for s in story.connection['scopes'])}")


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
    agent, daemon = (record["accounts"][name]["uid"] for name in ("agent", "daemon"))
    looked, closed, found = 0, 0, []
    for path in sorted(story.machine.rglob("*")):
        if not path.is_file():
            continue
        if agent != daemon and not _open_to(agent, path, story.machine):
            closed += 1
            continue
        looked += 1
        if TOKEN.search(path.read_bytes()):
            found.append(str(path))
    for environ in _environments(story.machine):
        looked += 1
        if TOKEN.search(environ):
            found.append("an environment")
    if found:
        raise StepFailed(f"a token was found in {found}")
    say(f"{record['isolation']}")
    say(f"{looked} files and environments are open to the agent: no token in any")
    say(f"{closed} files are closed to it")


def _open_to(uid: int, path: Path, machine: Path) -> bool:
    """Whether that user, in no other group than its own, may read the file."""
    folders = [folder for folder in path.parents if machine in (folder, *folder.parents)]
    return all(_may(uid, folder, 1) for folder in folders) and _may(uid, path, 4)


def _may(uid: int, path: Path, bit: int) -> bool:
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == uid else 0
    return bool((status.st_mode >> shift) & bit)


def _environments(machine: Path) -> Iterator[bytes]:
    """The environments of the machine's processes, as far as we may look."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            text = file.read_bytes()
        except OSError:
            continue
        if f"AURA_ROOT={machine}".encode() in text:
            yield text


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
