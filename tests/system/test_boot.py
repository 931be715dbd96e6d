"""A composed machine boots for real: cloud-init, systemd, Caddy, the daemon, the agent.

Run by ``make test-system``: needs root on Linux, and mmdebstrap the first time.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aura_plugin_local.basic import BasicRuntime

from aura_core.encoding import b64url
from aura_core.runtime import AgentSpec
from aura_core.skills import VmSkillManifest, VmWriteFile
from aura_plugins.local.tests.machines import eventually
from aura_plugins.local.tests.test_real_daemon import SKILL
from cloudinit_templates import Composed, Plan, compose
from tests.cloudinit import fast_tier
from tests.cloudinit.plans import skill
from tests.system.boot import Booted, boot
from tests.system.image import image
from tests.vmd.control_plane import INSTANCE, JOIN_TOKEN, Control, now_ms
from tests.vmd.harness import TOKEN, Provider, binding, credential, policy

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]

# What an agent would try, in the agent's own unit. 169.254.169.254 is where clouds keep user-data.
SPY = """\
#!/opt/aura/bin/python -I
import json, os, socket
found = {}
for path in ("/etc/aura/vmd.json", "/etc/aura/join-token", "/var/lib/aura/keys.json", "/etc/shadow",
             "/run/cloud-init/instance-data-sensitive.json"):
    try:
        open(path).close()
        found[path] = "open"
    except OSError as error:
        found[path] = type(error).__name__
for path in ("/var/lib/agent/skills/new", "/etc/new", "/usr/new", "/run/aura/new"):
    try:
        open(path, "w").close()
        found[path] = "written"
    except OSError as error:
        found[path] = error.strerror
try:
    os.rename("/var/lib/agent/skills", "/var/lib/agent/elsewhere")
    found["rename"] = "done"
except OSError as error:
    found["rename"] = error.strerror
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    channel.sendto(b"x", ("169.254.169.254", 80))
    found["metadata"] = "sent"
except OSError as error:
    found["metadata"] = error.strerror
print(json.dumps(found))
"""


@pytest.fixture
def work() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="aura-boot-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def composed(control: Control) -> Composed:
    routines = [
        {"name": name, "skill": command, "arguments": arguments, "every_seconds": 1}
        for name, command, arguments in (
            ("inbox", "mail", ["/mail/inbox"]), ("spy", "spy", []),
        )
    ]  # fmt: skip
    spy = VmSkillManifest(
        skill_dir_name="spy-skill",
        provider="spy",
        command="spy",
        write_files=(
            VmWriteFile(path="SKILL.md", content="Spy.\n"),
            VmWriteFile(path="bin/spy", content=SPY, permissions="0755"),
        ),
    )
    spec = AgentSpec(agent_id="a-1", name="Robin", persona={"SOUL": "Be terse."},
                     config={"routines": routines})  # fmt: skip
    return compose(
        Plan.model_validate(
            {
                "instance_id": INSTANCE,
                "agent_id": "a-1",
                "hostname": "agent",
                "control_url": control.url,
                "control_public_keys": {control.keys.signer_kid: b64url(control.keys.sig_public)},
                "join_token": JOIN_TOKEN,
                "runtime": BasicRuntime().plan(spec),
                "skills": (SKILL, spy, skill("google-workspace-skill")),
                "site": "http://:80",
            }
        )
    )


@asynccontextmanager
async def serving(app: web.Application, machine: Booted, port: int) -> AsyncIterator[str]:
    """Serve on the machine's own loopback: there is no other network for it."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    listener = machine.listener(port)
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def journal(machine: Booted, routine: str) -> list[dict[str, Any]]:
    text = machine.run("cat /var/lib/agent/journal.jsonl", check=False)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return [run for run in map(json.loads, lines) if run["routine"] == routine]


def check_cloud_init(machine: Booted) -> None:
    """Done, and without a warning: cloud-init says `done` of user-data that it ignored, too."""
    status = machine.run("cloud-init status --wait --long", check=False)
    log = machine.run("cat /var/log/cloud-init.log")
    bad = [line for line in log.splitlines() if "WARNING" in line or "Traceback" in line]
    output = machine.run("tail -n 30 /var/log/cloud-init-output.log", check=False)
    assert not bad, "\n".join([*bad, output])
    assert "status: done" in status, status + output


def check_units(machine: Booted) -> None:
    failed = machine.run("systemctl --failed --no-legend --plain")
    assert failed == "", failed + machine.run("journalctl -b --no-pager | tail -n 60")


class Transcript:
    """What was asked of the machine and what it said, for ``docs/booted.md`` to show."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, asked: str, *said: str) -> None:
        self.lines += [f"# {asked}", *said, ""]

    def check(self) -> None:
        """The page shows exactly this."""
        text = "\n".join(self.lines).rstrip()
        page = (ROOT / "docs/booted.md").read_text()
        (ROOT / ".cache/booted.txt").write_text(text)
        shown = page.partition("```text\n")[2].partition("\n```")[0]
        assert shown == text, "docs/booted.md shows something else than .cache/booted.txt"


async def test_a_machine_from_its_first_boot_to_its_second(work: Path) -> None:
    said = Transcript()
    control, provider = Control(), Provider()
    control.url = "http://127.0.0.1:8700"
    made = composed(control)
    fast_tier.check(made)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)

    with boot(image(), work, made.raw) as machine:
        async with serving(control.app(), machine, 8700), serving(app, machine, 8701) as url:
            provider.url = url
            check_cloud_init(machine)
            said.note("cloud-init status", machine.run("cloud-init status").strip())
            await eventually(lambda: control.machine, seconds=60)
            control.want("policy", policy("email:read"), revision=now_ms())
            control.want("c-1", credential(binding(provider.url)), revision=now_ms())
            await check_running(machine, provider)
            await check_confinement(machine, said)
            check_web_server(machine, said)
            check_forgotten(machine, work)
            check_units(machine)
            note_units(machine, said)

    (work / "upper/var/lib/agent/journal.jsonl").unlink()
    with boot(image(), work, made.raw) as machine:
        async with serving(control.app(), machine, 8700), serving(app, machine, 8701):
            await check_running(machine, provider)
            check_cloud_init(machine)
            check_forgotten(machine, work)
            check_units(machine)
    assert control.joins == 1
    said.check()


def note_units(machine: Booted, said: Transcript) -> None:
    units = "aura-firewall aura-vmd aura-agent-runtime-basic caddy"
    shown = "--property=Id,ActiveState,User"
    for block in machine.run(f"systemctl show {units} {shown}").strip().split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines())
        who = facts.get("User") or "root"
        said.note(f"systemctl show {facts['Id']}", f"{facts['ActiveState']}, as {who}")
    report = json.loads(machine.run("systemd-analyze security --json=short --no-pager"))
    for unit in ("aura-vmd.service", "aura-agent-runtime-basic.service"):
        (exposure,) = (entry["exposure"] for entry in report if entry["unit"] == unit)
        said.note(f"systemd-analyze security {unit}", f"exposure {exposure} of 10")


async def check_running(machine: Booted, provider: Provider) -> None:
    """The agent's skill reached the provider through the daemon."""
    before = len(provider.calls)
    await eventually(
        lambda: [run for run in journal(machine, "inbox") if run["exit_code"] == 0], seconds=90
    )
    assert provider.calls[before]["headers"]["authorization"] == f"Bearer {TOKEN}"
    for unit in ("aura-vmd.service", "aura-agent-runtime-basic.service", "aura-firewall.service"):
        assert machine.run(f"systemctl is-active {unit}").strip() == "active"


METADATA = ("169.254.169.254", 8780)
ASK = f"import socket; socket.create_connection({METADATA}, 5)".replace("'", '"')


async def check_confinement(machine: Booted, said: Transcript) -> None:
    machine.run(f"ip address add {METADATA[0]}/32 dev lo")
    with machine.within(lambda: socket.create_server(METADATA)):
        machine.run(f"python3 -c '{ASK}'")
        check_metadata(machine)
    count = len(journal(machine, "spy"))
    spied = await eventually(lambda: journal(machine, "spy")[count + 1 :], seconds=30)
    found = json.loads(spied[0]["output"])
    reached = [path for path, what in found.items() if what in ("open", "written", "done", "sent")]
    assert reached == []
    said.note("what the agent can open, write or reach", *(f"{k}: {v}" for k, v in found.items()))
    assert found["metadata"] == "Operation not permitted"


def check_metadata(machine: Booted) -> None:
    """Root reaches it, as the line before shows; the agent's user does not, in whatever unit."""
    asked = machine.run(
        f"setpriv --reuid=agent --regid=agent --clear-groups python3 -c '{ASK}'", check=False
    )
    assert "ConnectionRefusedError" in asked, asked


def check_web_server(machine: Booted, said: Transcript) -> None:
    def status(line: str) -> str:
        answer = machine.ask(f"{line} HTTP/1.0\r\nHost: agent\r\n\r\n").split("\r\n")[0]
        answers.append(f"{line}: {answer.partition(' ')[2]}")
        return answer

    answers: list[str] = []

    assert status("GET /health").endswith("200 OK")
    assert "401" in status("POST /internal/credentials/policy")
    # Cleaned before it is matched, and forwarded as what it was matched as.
    assert status("GET /internal/credentials/../../health").endswith("200 OK")
    for line in (
        "GET /", "GET /internal/credentials/policy", "POST /internal/credentials/",
        "POST /internal/credentials/a/b",
        "POST /internal/credentials/%2e%2e", "GET /metrics", "GET //health/x",
    ):  # fmt: skip
        assert "404" in status(line), line
    said.note("what the web server answers", *answers)


def check_forgotten(machine: Booted, work: Path) -> None:
    """No file of the machine's holds the join token any more, nor does the tree in memory."""
    found = machine.run(f"grep -rlsF {JOIN_TOKEN} /etc /run /var /root /tmp /home || true")
    assert found == ""
    kept = [
        path for path in (work / "upper").rglob("*")
        if path.is_file() and not path.is_symlink() and JOIN_TOKEN.encode() in path.read_bytes()
    ]  # fmt: skip
    assert kept == []
