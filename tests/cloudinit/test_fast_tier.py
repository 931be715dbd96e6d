"""The fast tier finds each fault that it is there for: planted one by one in a good document."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit_templates import Composed, DaemonArchive, compose
from tests.cloudinit import fast_tier
from tests.cloudinit.plans import full_plan

Config = dict[str, Any]

ARCHIVE = DaemonArchive(url="https://control.example.org/bundle.tar", sha256="0" * 64)


def with_text(composed: Composed, text: str, config: Config) -> Composed:
    raw = gzip.compress(text.encode(), mtime=0)
    user_data = base64.b64encode(raw).decode()
    return dataclasses.replace(
        composed, raw=raw, user_data=user_data, size=len(user_data), cloud_config=config
    )


def planted(plant: Callable[[Config], None]) -> Composed:
    composed = compose(full_plan(daemon=ARCHIVE))
    config: Config = json.loads(json.dumps(composed.cloud_config))
    plant(config)
    return with_text(composed, "#cloud-config\n" + json.dumps(config), config)


def edit(path: str, old: str, new: str) -> Callable[[Config], None]:
    def plant(config: Config) -> None:
        (entry,) = (e for e in config["write_files"] if e["path"] == path)
        assert old in entry["content"]
        entry["content"] = entry["content"].replace(old, new, 1)

    return plant


def without(path: str, key: str) -> Callable[[Config], None]:
    def plant(config: Config) -> None:
        (entry,) = (e for e in config["write_files"] if e["path"] == path)
        del entry[key]

    return plant


def setting(key: str, value: object) -> Callable[[Config], None]:
    return lambda config: config.update({key: value})


def padded(config: Config) -> None:
    config["write_files"][0]["content"] += random.Random(1).randbytes(30_000).hex()


UNITS = "/etc/systemd/system/"
VMD = f"{UNITS}aura-vmd.service"
SETUP = "/usr/local/lib/aura/setup"
CADDYFILE = "/etc/aura/Caddyfile"
FILTER = "SystemCallFilter=@system-service\n"
# What is planted, and what the check says when it finds that and nothing else.
FAULTS: dict[str, tuple[Callable[[Config], None], str]] = {
    "owner without defer": (without("/etc/aura/vmd.json", "defer"), "no defer"),
    "unknown owner": (
        lambda config: config["write_files"][0].update(owner="root:caddy"), "nobody makes"
    ),
    "path twice": (
        lambda config: config["write_files"].append(config["write_files"][0]), "written twice"
    ),
    "writable by all": (
        lambda config: config["write_files"][0].update(permissions="0666"), "others may write"
    ),
    "a second command": (setting("runcmd", [["/bin/bash", SETUP], ["/bin/true"]]), "more than one"),
    "lax script": (edit(SETUP, "set -euo pipefail", "set -u"), "after a failure"),
    "packages": (setting("packages", ["caddy"]), "packages"),
    "merging": (setting("merge_how", "list(append)+dict(no_replace)+str()"), "merge_how"),
    "schema": (setting("write_files", "all of them"), "is not of type"),
    "a key that nobody knows": (setting("write_filez", []), "write_filez"),
    "too large": (padded, "too many"),
    "bash": (edit("/usr/local/lib/aura/firewall", "fi\n", "\n"), "syntax error"),
    "xz": (edit(SETUP, "umask 022\n", "tar -xJf skills.tar.xz\n"), "counts on"),
    "python": (edit("/usr/local/lib/aura/install_daemon.py", "def main():", "def main()"), ":"),
    "missing brace": (
        edit(CADDYFILE, "\t\trespond 404\n\t}\n}", "\t\trespond 404\n\t}\n"), "unformatted"
    ),
    "web server's directive": (edit(CADDYFILE, "respond 404", "answer 404"), "answer"),
    "forwarded as it came": (
        edit(CADDYFILE, "\t\trewrite * /slack-ping\n", ""), "/slack-ping is forwarded"
    ),
    "unit's directive": (edit(VMD, "RestartSec=1", "RestartSecs=1"), "RestartSecs"),
    "unit's value": (
        edit(f"{UNITS}aura-firewall.service", "Type=oneshot", "Type=onceshot"), "onceshot"
    ),
    "daemon unconfined": (edit(VMD, "ProtectSystem=strict\n", ""), "ProtectSystem"),
    "daemon as root": (edit(VMD, "User=aura", "User=root"), "'User': 'root'"),
    "daemon of no user": (edit(VMD, "User=aura\n", ""), "'User': None"),
    "agent as the daemon": (
        edit(f"{UNITS}aura-agent-runtime.service", "User=agent", "User=aura"), "'User': 'aura'"
    ),
    "metadata open": (
        edit(VMD, "IPAddressDeny=169.254.169.254", "IPAddressDeny=192.0.2.1"), "address is open"
    ),
    "writes elsewhere": (edit(VMD, "ReadWritePaths=", "ReadWritePaths=/etc "), "/etc"),
    "exposed": (
        edit(VMD, f"{FILTER}SystemCallFilter=~@privileged @resources\n", ""), "security"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    plant, said = FAULTS[fault]
    with pytest.raises((AssertionError, SyntaxError)) as caught:
        fast_tier.check(planted(plant))
    assert said in str(caught.value)


def test_nothing_planted_nothing_found() -> None:
    fast_tier.check(planted(lambda config: None))


def packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode())).decode()


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[: len(text) // 2],
    "newline": lambda text: text + "\n",
    "wrapped": lambda text: text[:76] + "\n" + text[76:],
    "truncated gzip": lambda text: base64.b64encode(base64.b64decode(text)[:-9]).decode(),
    "plain": lambda text: gzip.decompress(base64.b64decode(text)).decode(),
    "encoded twice": lambda text: base64.b64encode(text.encode()).decode(),
    "not packed": lambda text: base64.b64encode(gzip.decompress(base64.b64decode(text))).decode(),
    "no first line": lambda text: packed("{}"),
    "an include": lambda text: packed("#include\nhttps://control.example.org/user-data\n"),
    "parts": lambda text: packed('Content-Type: multipart/mixed; boundary="="\n\n--=--\n'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cloud_init_would_ignore_is_found(damage: str) -> None:
    composed = compose(full_plan())
    broken = DAMAGES[damage](composed.user_data)
    with pytest.raises(AssertionError):
        fast_tier.decode(broken)
    with pytest.raises(AssertionError):
        fast_tier.check(dataclasses.replace(composed, user_data=broken, size=len(broken)))


def test_raw_that_no_cloud_config_gzip_is_found() -> None:
    """NoCloud decodes no base64: it has to get the gzip itself."""
    composed = compose(full_plan())
    with pytest.raises(AssertionError):
        fast_tier.check(dataclasses.replace(composed, raw=composed.user_data.encode()))


def test_text_that_is_no_yaml_is_found() -> None:
    composed = compose(full_plan())
    with pytest.raises(yaml.YAMLError):
        fast_tier.check(with_text(composed, "#cloud-config\n{", {}))


def test_a_key_that_occurs_twice_is_found() -> None:
    composed = compose(full_plan())
    text = fast_tier.decode(composed.user_data)
    doubled = text.replace('{"hostname"', '{"hostname": "other", "hostname"', 1)
    with pytest.raises(AssertionError, match="duplicate"):
        fast_tier.check(with_text(composed, doubled, dict(composed.cloud_config)))


def test_nothing_is_composed_in_tests_without_being_checked(
    composed_in_tests: Path, tmp_path: Path
) -> None:
    """Neither here nor in a program that a test starts: what these write is what is checked."""

    def kept() -> set[str]:
        return {path.name for path in composed_in_tests.iterdir()}

    def name(composed: Composed) -> str:
        return hashlib.sha256(composed.user_data.encode()).hexdigest()

    before = kept()
    here = name(compose(full_plan(instance_id="composed-here")))
    program = (
        "from cloudinit_templates import compose\n"
        "from tests.cloudinit.plans import full_plan\n"
        "import hashlib\n"
        "made = compose(full_plan(instance_id='composed-elsewhere'))\n"
        "print(hashlib.sha256(made.user_data.encode()).hexdigest())\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2], env={**os.environ}, capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
    assert kept() - before == {here, there}

    faulty = json.loads((composed_in_tests / there).read_text())
    faulty["size"] += 1
    (tmp_path / "faulty").write_text(json.dumps(faulty))
    with pytest.raises(AssertionError):
        fast_tier.check_folder(tmp_path)
