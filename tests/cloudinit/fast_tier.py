"""What every composed document must pass, run with the real programs: some 100 ms a document.

``check(composed)`` raises ``AssertionError``. The traps are those which the schema accepts and
cloud-init then does wrong: they end in a machine that half works. What a program has said of a
script, of the web server's configuration or of a set of units is remembered: it would say the same
again.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator

from cloudinit_templates import MAX_USER_DATA, Composed

__all__ = ["check", "check_folder", "check_with_cloud_init", "decode", "tool"]

SCHEMA = Path(__file__).parents[1] / "data/cloud-config-schema.json"
UNIT_KINDS = (".service", ".path", ".target", ".timer", ".socket")
DAEMON_EXPOSURE = 15  # tenths: what `systemd-analyze security --threshold` counts in
AGENT_EXPOSURE = 20
OWN_FOLDERS = {"/run/aura", "/var/lib/agent/skills", "/run/agent", "/var/lib/agent"}
GIVEN_UNITS = (
    "network-online.target", "multi-user.target", "sysinit.target", "basic.target",
    "system.slice", "-.slice", "-.mount", "shutdown.target", "tmp.mount",
)  # fmt: skip


def check(composed: Composed) -> None:
    """Everything that needs no boot, on one document."""
    text = decode(composed.user_data)
    assert composed.size == len(composed.user_data), "says another size than it has"
    assert composed.size <= MAX_USER_DATA, f"{composed.size} bytes are too many"
    assert base64.b64decode(composed.user_data) == composed.raw, "raw is something else"
    config = _load(text)
    assert config == composed.cloud_config
    errors = [error.message for error in _validator().iter_errors(config)]
    assert not errors, errors
    _check_traps(config)
    files = {entry["path"]: _content(entry) for entry in config["write_files"]}
    for name, content in files.items():
        _check_script(name, content)
    _check_caddyfile(files["/etc/aura/Caddyfile"].decode())
    _check_units(frozenset((name, text) for name, text in files.items() if _is_unit(name)))


def check_folder(folder: Path) -> None:
    """Check each document that was kept there (``observing``), once."""
    for path in sorted(folder.iterdir()):
        if path.suffix or path in _checked:
            continue
        _checked.add(path)
        parts = json.loads(path.read_text())
        parts["raw"] = base64.b64decode(parts["raw"])
        check(Composed(**parts))


_checked: set[Path] = set()


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


class _Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key that occurs twice, of which YAML parsers silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate keys: {keys}"
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


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
        mode = entry["permissions"]
        assert re.fullmatch(r"0[0-7]{3}", mode), f"{entry['path']}: the mode {mode!r} is none"
        assert int(mode, 8) & 0o022 == 0, f"{entry['path']}: others may write it"
    # Only the last command's exit status is looked at: so there is only one, and it is strict.
    assert len(config["runcmd"]) == 1, "runcmd has more than one command"
    command = config["runcmd"][0]
    assert command[0] == "/bin/bash"
    (script,) = (e["content"] for e in config["write_files"] if e["path"] == command[1])
    assert "set -euo pipefail" in script, "the script goes on after a failure"
    # Packages wait for an index; includes and parts of a MIME message vanish without a word.
    refused = {"packages", "package_update", "bootcmd", "merge_how"} & config.keys()
    assert not refused, f"not to be used: {refused}"


def _content(entry: Mapping[str, Any]) -> bytes:
    content: str = entry["content"]
    return base64.b64decode(content, validate=True) if "encoding" in entry else content.encode()


@functools.cache
def _check_script(name: str, content: bytes) -> None:
    if name.endswith(".py"):
        compile(content, name, "exec")
    elif content.startswith(b"#!/bin/bash"):
        _run(["bash", "-n", "-c", content.decode()])
        # Minimal images lack it; the archive is the daemon's to unpack.
        assert not re.search(rb"\bxz\b|\btar\b", content), f"{name} counts on a program"


@functools.cache
def _check_caddyfile(text: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "Caddyfile"
        path.write_text(text)
        environment = {"PATH": os.environ["PATH"], "HOME": home, "XDG_DATA_HOME": home}
        caddy = tool("caddy")
        _run([caddy, "validate", "--adapter", "caddyfile", "--config", path], env=environment)
        # A missing brace validates; the only sign is that the file is not formatted.
        assert _run([caddy, "fmt", path], env=environment, codes=(0, 1)) == text, "unformatted"
    # An exact path is matched after cleaning (`/x/../health` is `/health`) but forwarded as it
    # came, so what is forwarded must be written anew.
    for block in re.findall(r"^\thandle ([^{*]+) \{\n(.*?)^\t\}", text, re.DOTALL | re.MULTILINE):
        assert "\t\trewrite " in block[1], f"{block[0]} is forwarded as it came"


def _is_unit(name: str) -> bool:
    return name.startswith("/etc/systemd/system/") and name.endswith(UNIT_KINDS)


@functools.cache
def _check_units(written: frozenset[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        units = []
        for name, text in sorted(written):
            unit = root / name.lstrip("/")
            unit.parent.mkdir(parents=True, exist_ok=True)
            unit.write_bytes(text)
            units.append(unit)
        _verify(root, units)
        for unit in units:
            daemon = unit.name == "aura-vmd.service"
            if daemon or unit.name.startswith("aura-agent-"):
                _check_exposure(root, unit, daemon=daemon)


def _verify(root: Path, units: Sequence[Path]) -> None:
    for unit in units:
        for program in re.findall(r"^Exec\w+=(/\S+)", unit.read_text(), re.MULTILINE):
            stand_in = root / program.lstrip("/")
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.write_text("#!/bin/sh\n")
            stand_in.chmod(0o755)
    # Below the root lie our files alone, so what systemd itself brings is given as empty units.
    library = root / "usr/lib/systemd/system"
    library.mkdir(parents=True)
    for name in GIVEN_UNITS:
        (library / name).write_text("[Unit]\nDescription=Given\n")
    analyze = tool("systemd-analyze")
    out = _run([analyze, "verify", "--man=no", "--recursive-errors=no", f"--root={root}", *units])
    assert out == "", out


def _check_exposure(root: Path, unit: Path, *, daemon: bool) -> None:
    _check_confinement(unit.read_text(), "aura" if daemon else "agent")
    limit = DAEMON_EXPOSURE if daemon else AGENT_EXPOSURE
    _run([tool("systemd-analyze"), "security", "--offline=true", f"--threshold={limit}",
          "--no-pager", f"--root={root}", unit.name])  # fmt: skip


def _check_confinement(text: str, user: str) -> None:
    """What no score says: the user is ours, and the last word on what matters most is ours."""
    last = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    wanted = {"User": user, "Group": user, "NoNewPrivileges": "yes", "ProtectSystem": "strict"}
    found = {key: last.get(key) for key in wanted}
    assert found == wanted, f"confined as {found}"
    assert "169.254.169.254" in last["IPAddressDeny"], "the metadata address is open"
    writable = set(last["ReadWritePaths"].split())
    assert writable <= OWN_FOLDERS, f"may write to {writable - OWN_FOLDERS}"


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
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=90, check=False)
    assert done.returncode in codes, f"{command}: {done.stdout}{done.stderr}"
    if Path(command[0]).name == "caddy":
        return done.stdout
    return done.stdout + done.stderr
