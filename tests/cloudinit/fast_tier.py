"""What every composed document must pass, run with the real programs: some 100 ms a document.

``check(composed)`` raises ``AssertionError``. The traps are those which the schema accepts and
cloud-init then does wrong: they end in a machine that half works.
"""

from __future__ import annotations

import base64
import binascii
import functools
import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator

from cloudinit_templates import MAX_USER_DATA, Composed

__all__ = ["check", "check_with_cloud_init", "decode", "tool"]

SCHEMA = Path(__file__).parents[1] / "data/cloud-config-schema.json"
UNIT_KINDS = (".service", ".path", ".target", ".timer", ".socket")
DAEMON_EXPOSURE = 15  # tenths: what `systemd-analyze security --threshold` counts in
AGENT_EXPOSURE = 20


def check(composed: Composed) -> None:
    """Everything that needs no boot, on one document."""
    text = decode(composed.user_data)
    assert composed.size == len(composed.user_data) <= MAX_USER_DATA
    assert base64.b64decode(composed.user_data) == composed.raw
    config = _load(text)
    assert config == composed.cloud_config
    errors = [error.message for error in _validator().iter_errors(config)]
    assert not errors, errors
    _check_traps(config)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = _written(config, root)
        _check_scripts(files)
        _check_caddyfile(root / "etc/aura/Caddyfile", root)
        _check_units(root)


def decode(user_data: str) -> str:
    """The document, as Hetzner's datasource reads it: plain if it is no base64, then gzip.

    Anything that cloud-init would silently take for empty user-data fails here instead.
    """
    assert user_data == user_data.strip()
    assert not re.search(r"\s", user_data)
    try:
        raw = base64.b64decode(user_data, validate=True)
    except binascii.Error:
        raise AssertionError("is no base64: cloud-init would ignore it") from None
    assert raw[:2] == b"\x1f\x8b", "is no gzip"
    try:
        text = gzip.decompress(raw).decode()
    except (EOFError, OSError):
        raise AssertionError("is truncated gzip: cloud-init would ignore it") from None
    assert text.startswith("#cloud-config\n"), "the first line is what makes it a cloud-config"
    return text


class _Strict(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML parsers silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate keys: {keys}"
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    return yaml.load(text, Loader=_Strict)


@functools.cache
def _validator() -> Draft4Validator:
    return Draft4Validator(json.loads(SCHEMA.read_text()))


def _check_traps(config: Mapping[str, Any]) -> None:
    made = {"root", *config["groups"], *(user["name"] for user in config["users"])}
    paths = [entry["path"] for entry in config["write_files"]]
    assert len(paths) == len(set(paths)), "a path is written twice"
    for entry in config["write_files"]:
        owner = entry.get("owner", "root:root")
        assert set(owner.split(":")) <= made, f"{entry['path']}: nobody makes {owner}"
        assert owner == "root:root" or entry.get("defer") is True, f"{entry['path']}: no defer"
        assert re.fullmatch(r"0[0-7]{3}", entry["permissions"])
        assert int(entry["permissions"], 8) & 0o022 == 0
    # Only the last command's exit status is looked at: so there is only one, and it is strict.
    assert len(config["runcmd"]) == 1
    command = config["runcmd"][0]
    assert command[0] == "/bin/bash"
    (script,) = (e["content"] for e in config["write_files"] if e["path"] == command[1])
    assert "set -euo pipefail" in script
    # Packages wait for an index; includes and parts of a MIME message vanish without a word.
    assert not {"packages", "package_update", "bootcmd", "merge_how"} & config.keys()


def _written(config: Mapping[str, Any], root: Path) -> dict[str, Path]:
    """The files as they would lie below ``root``."""
    files = {}
    for entry in config["write_files"]:
        path = root / entry["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = entry["content"]
        if entry.get("encoding") == "b64":
            path.write_bytes(base64.b64decode(content, validate=True))
        else:
            path.write_text(content, newline="")
        path.chmod(int(entry["permissions"], 8))
        files[entry["path"]] = path
    return files


def _check_scripts(files: Mapping[str, Path]) -> None:
    for name, path in files.items():
        if name.endswith(".py"):
            compile(path.read_bytes(), name, "exec")
        elif path.read_bytes().startswith(b"#!/bin/bash"):
            _run(["bash", "-n", path])


def _check_caddyfile(path: Path, home: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_DATA_HOME": str(home)}
    caddy = tool("caddy")
    _run([caddy, "validate", "--adapter", "caddyfile", "--config", path], env=environment)
    # A missing brace validates; the only sign is that the file is not formatted.
    assert _run([caddy, "fmt", path], env=environment, codes=(0, 1)) == path.read_text()


def _check_units(root: Path) -> None:
    units = sorted(
        path for path in (root / "etc/systemd/system").iterdir() if path.suffix in UNIT_KINDS
    )
    for unit in units:
        text = unit.read_text()
        for program in re.findall(r"^Exec\w+=(/\S+)", text, re.MULTILINE):
            stand_in = root / program.lstrip("/")
            if not stand_in.exists():
                stand_in.parent.mkdir(parents=True, exist_ok=True)
                stand_in.write_text("#!/bin/sh\n")
            stand_in.chmod(0o755)
    analyze = tool("systemd-analyze")
    # Below the root lie our files alone, so what systemd itself brings is given as empty units.
    library = root / "usr/lib/systemd/system"
    library.mkdir(parents=True)
    for name in ("network-online.target", "multi-user.target", "sysinit.target", "basic.target"):
        (library / name).write_text("[Unit]\nDescription=Given\n")
    for name in ("system.slice", "-.slice", "-.mount", "shutdown.target", "tmp.mount"):
        (library / name).write_text("[Unit]\nDescription=Given\n")
    out = _run([analyze, "verify", "--man=no", "--recursive-errors=no", f"--root={root}", *units])
    assert out == "", out
    for unit in units:
        daemon = unit.name == "aura-vmd.service"
        if not daemon and not unit.name.startswith("aura-agent-"):
            continue
        _check_confinement(unit.read_text(), "aura" if daemon else "agent")
        limit = DAEMON_EXPOSURE if daemon else AGENT_EXPOSURE
        _run([analyze, "security", "--offline=true", f"--threshold={limit}", "--no-pager",
              f"--root={root}", unit.name])  # fmt: skip


def _check_confinement(text: str, user: str) -> None:
    """What no score says: the user is ours, and the last word on what matters most is ours."""
    last = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    wanted = {"User": user, "Group": user, "NoNewPrivileges": "yes", "ProtectSystem": "strict"}
    assert {key: last.get(key) for key in wanted} == wanted
    assert "169.254.169.254" in last["IPAddressDeny"]
    assert set(last["ReadWritePaths"].split()) <= {
        "/run/aura", "/var/lib/agent/skills", "/run/agent", "/var/lib/agent",
    }  # fmt: skip


def check_with_cloud_init(composed: Composed) -> None:
    """Cloud-init's own word on the document (a second, hence not part of :func:`check`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user-data"
        path.write_text(decode(composed.user_data))
        out = _run([tool("cloud-init"), "schema", "-c", path])
        assert "Valid" in out, out


def tool(name: str) -> str:
    """Where ``make tools`` put the program, or the machine's own."""
    fetched = Path(__file__).parents[2] / ".cache/tools/bin"
    path = shutil.which(name, path=f"{fetched}{os.pathsep}{os.environ['PATH']}")
    assert path is not None, f"{name} is missing: run 'make tools'"
    return path


def _run(
    command: list[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    codes: tuple[int, ...] = (0,),
) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=False)
    assert done.returncode in codes, f"{command}: {done.stdout}{done.stderr}"
    if Path(command[0]).name == "caddy":
        return done.stdout
    return done.stdout + done.stderr
