"""The whole path on one machine, with real processes: connect, deploy, work, look, disconnect.

Only the provider is a stand-in: a twin of Google, made from its manifest and served on loopback,
because a demonstration has no account to use. Everything lives in one temporary directory and
nothing is left running. Run it with `make demo`; it exits 0, or 1 naming the step that failed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx

from examples.demo.steps import STEPS
from examples.demo.story import StepFailed, Story, aura, console, program, say, until


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
            stack.callback(_clean_up, story)
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


def _clean_up(story: Story) -> None:
    """End the agent's machine when a step failed: it would go on by itself."""
    if story.agent_id and any(story.machines()):
        story.api.delete(f"/api/agents/{story.agent_id}")
        until("end of the machine", lambda: not any(story.machines()))


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
