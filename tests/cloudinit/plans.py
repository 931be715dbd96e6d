"""Plans and skills to compose in tests."""

from __future__ import annotations

import random
from typing import Any

from aura_core.runtime import Readiness, RuntimePlan
from aura_core.skills import VmCaddyRoute, VmSkillManifest, VmSystemdService, VmWriteFile
from cloudinit_templates import Plan

JOIN_TOKEN = "join-token-of-this-test-0123456789abcdefghij"

UNIT = """\
[Unit]
Description=A service
After=network-online.target

[Service]
ExecStart=/opt/aura/bin/aura-runtime-basic /var/lib/agent/runtime.json
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def skill(name: str, text: str = "Do things.\n", **parts: Any) -> VmSkillManifest:
    """A skill with a SKILL.md of ``text`` and a command."""
    return VmSkillManifest(
        skill_dir_name=name,
        provider=name,
        write_files=(
            VmWriteFile(path="SKILL.md", content=text),
            VmWriteFile(path=f"bin/{name}", content="#!/bin/sh\nexit 0\n", permissions="0755"),
            *parts.pop("write_files", ()),
        ),
        **{"command": name, **parts},
    )


def bulky(name: str, size: int) -> VmSkillManifest:
    """A skill that compresses badly: ``size`` random hex digits, the same for the same name."""
    return skill(name, random.Random(name).randbytes(size // 2).hex())


def runtime(**parts: Any) -> RuntimePlan:
    values: dict[str, Any] = {
        "runtime": "basic",
        "write_files": (VmWriteFile(path="/var/lib/agent/runtime.json", content="{}\n"),),
        "services": (VmSystemdService(name="runtime", unit_file_content=UNIT),),
        "readiness": Readiness(socket="/run/agent/runtime.sock"),
    }
    return RuntimePlan(**{**values, **parts})


def plan(**parts: Any) -> Plan:
    values: dict[str, Any] = {
        "instance_id": "i-0001",
        "agent_id": "a-0001",
        "hostname": "agent-0001",
        "control_url": "https://control.example.org",
        "control_public_keys": {"k1": "A" * 43},
        "join_token": JOIN_TOKEN,
        "runtime": runtime(),
        "site": "agent-0001.example.org",
    }
    return Plan(**{**values, **parts})


def full_plan(**parts: Any) -> Plan:
    """A plan in which everything occurs: skills, a service, exact and wild routes, files."""
    served = skill(
        "slack-skill",
        services=(
            VmSystemdService(name="slack-events", unit_file_content=UNIT.replace("basic", "slack")),
        ),
        caddy_routes=(
            VmCaddyRoute(
                match_path="/hooks/slack", upstream_port=18900, rewrite_path="/slack/events"
            ),
            VmCaddyRoute(match_path="/slack-files/*", upstream_port=18901, rewrite_path="/files"),
            VmCaddyRoute(match_path="/slack-ui*", upstream_port=18902),
            VmCaddyRoute(match_path="/slack-ping", upstream_port=18902),
        ),
        write_files=(
            VmWriteFile(path="/var/lib/agent/slack/settings.json", content="{}\n"),
            VmWriteFile(path="/etc/aura/skills/slack.conf", content="x = 1\n"),
        ),
    )
    return plan(**{"skills": (skill("google-workspace-skill"), served), **parts})


def contents(config: Any) -> dict[str, str]:
    """Path to content of the composed files."""
    return {entry["path"]: entry["content"] for entry in config["write_files"]}
