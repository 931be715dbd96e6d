"""A composed machine with the real daemon and the real runtime, from joining to a provider call."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aura_plugin_local.basic import BasicRuntime
from aura_plugin_local.compute import LocalCompute

from aura_core.compute import MachineRequest
from aura_core.encoding import b64url
from aura_core.runtime import AgentSpec
from aura_core.skills import VmSkillManifest, VmWriteFile
from aura_plugins.local.tests.machines import LABELS, alive, eventually
from cloudinit_templates import Plan, compose
from tests.cloudinit import fast_tier
from tests.vmd.control_plane import INSTANCE, JOIN_TOKEN, Control, now_ms
from tests.vmd.harness import TOKEN, Provider, binding, credential, policy, serving

# The command of a skill, without the CLI that skills share: one call through the daemon's socket.
COMMAND = """\
#!/bin/sh
exec "$AURA_PYTHON" -I - "$@" <<'PYTHON'
import http.client, os, socket, sys
connection = http.client.HTTPConnection("broker")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(os.environ["AURA_BROKER_SOCKET"])
connection.request("GET", "/v1/mailer" + sys.argv[1])
answer = connection.getresponse()
print(answer.status, answer.read().decode())
sys.exit(answer.status != 200)
PYTHON
"""
SKILL = VmSkillManifest(
    skill_dir_name="mail-skill",
    provider="mailer",
    command="mail",
    write_files=(
        VmWriteFile(path="SKILL.md", content="Mail.\n"),
        VmWriteFile(path="bin/mail", content=COMMAND, permissions="0755"),
    ),
)


def request(control: Control) -> MachineRequest:
    spec = AgentSpec(
        agent_id="a-1",
        name="Robin",
        persona={"SOUL": "Be terse."},
        config={
            "routines": [
                {
                    "name": "inbox",
                    "skill": "mail",
                    "arguments": ["/mail/inbox"],
                    "every_seconds": 1,
                },
                {"name": "spy", "skill": "mail", "arguments": ["/admin"], "every_seconds": 1},
            ]
        },
    )
    composed = compose(
        Plan.model_validate(
            {
                "instance_id": INSTANCE,
                "agent_id": "a-1",
                "hostname": "agent-1",
                "control_url": control.url,
                "control_public_keys": {control.keys.signer_kid: b64url(control.keys.sig_public)},
                "join_token": JOIN_TOKEN,
                "runtime": BasicRuntime().plan(spec),
                "skills": (SKILL,),
                "site": "agent-1.example.org",
            }
        )
    )
    fast_tier.check(composed)
    return MachineRequest(name="one", user_data=composed.user_data, labels=LABELS)


def journal(directory: Path, routine: str) -> list[dict[str, Any]]:
    lines = (directory / "var/lib/agent/journal.jsonl").read_text().splitlines()
    return [run for run in map(json.loads, lines) if run["routine"] == routine]


async def health(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
        return answer.status


async def test_an_agent_uses_a_provider_without_its_credential(
    compute: LocalCompute, short_root: Path
) -> None:
    control, provider = Control(), Provider()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)
    async with serving(control.app()) as control.url, serving(app) as provider.url:
        await compute.create(request(control))
        directory = short_root / "m/one"
        await eventually(lambda: control.machine, seconds=30)
        control.want("policy", policy("email:read"), revision=now_ms())
        control.want("c-1", credential(binding(provider.url)), revision=now_ms())

        good = await eventually(
            lambda: [run for run in journal(directory, "inbox") if run["exit_code"] == 0]
        )
        assert good[0]["output"].startswith("200 ")
        assert provider.calls[0]["headers"]["authorization"] == f"Bearer {TOKEN}"
        assert not [call for call in provider.calls if call["path"] != "/mail/inbox"]
        refused = await eventually(
            lambda: [r for r in journal(directory, "spy") if r["output"].startswith("403 ")]
        )
        assert refused[0]["exit_code"] == 1

        machine = await compute.find("one")
        assert machine is not None
        assert machine.push_url is not None
        assert await health(machine.push_url) == 200
        ready = await eventually(
            lambda: [h for h in control.heartbeats if h["health"]["runtime"]["ready"]]
        )
        assert ready
        # The token is with the provider and in the daemon's memory, and on no disk of the machine.
        texts = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
        assert texts
        assert not [text for text in texts if TOKEN.encode() in text]
        assert not [text for text in texts if JOIN_TOKEN.encode() in text]

        lock = json.loads((directory / "machine.lock").read_text())
        await _kill_the_daemon_and_see_it_come_back(directory, control)
        await compute.destroy("one")
        assert not alive(lock["pid"])
        assert not directory.exists()


async def _kill_the_daemon_and_see_it_come_back(directory: Path, control: Control) -> None:
    log = (directory / "var/log/machine.log").read_text()
    pid = int(log.split("aura-vmd runs as ")[-1].split()[0])
    before = len(control.heartbeats)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid))
    served = len(journal(directory, "inbox"))
    await eventually(lambda: len(control.heartbeats) > before + 1)
    await eventually(
        lambda: [run for run in journal(directory, "inbox")[served:] if run["exit_code"] == 0]
    )
    assert control.joins == 1
