"""The fast tier finds each fault that it is there for: planted one by one in a good document."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from cloudinit_templates import Composed, compose
from tests.cloudinit import fast_tier
from tests.cloudinit.plans import full_plan

Config = dict[str, Any]


def with_text(composed: Composed, text: str, config: Config) -> Composed:
    raw = gzip.compress(text.encode(), mtime=0)
    user_data = base64.b64encode(raw).decode()
    return dataclasses.replace(
        composed, raw=raw, user_data=user_data, size=len(user_data), cloud_config=config
    )


def planted(plant: Callable[[Config], None]) -> Composed:
    composed = compose(full_plan())
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


UNITS = "/etc/systemd/system/"
FAULTS: dict[str, Callable[[Config], None]] = {
    "owner without defer": without("/etc/aura/vmd.json", "defer"),
    "a second command": setting("runcmd", [["/bin/bash", "/x"], ["/bin/true"]]),
    "lax script": edit("/usr/local/lib/aura/setup", "set -euo pipefail", "set -u"),
    "packages": setting("packages", ["caddy"]),
    "schema": setting("write_files", "all of them"),
    "bash": edit("/usr/local/lib/aura/firewall", "fi\n", "\n"),
    "missing brace": edit(
        "/etc/aura/Caddyfile", "\t\trespond 404\n\t}\n}", "\t\trespond 404\n\t}\n"
    ),
    "web server's directive": edit("/etc/aura/Caddyfile", "respond 404", "answer 404"),
    "unit's directive": edit(f"{UNITS}aura-vmd.service", "RestartSec=1", "RestartSecs=1"),
    "unit's dependency": edit(f"{UNITS}aura-firewall.service", "Type=oneshot", "Type=onceshot"),
    "daemon unconfined": edit(f"{UNITS}aura-vmd.service", "ProtectSystem=strict\n", ""),
    "daemon as root": edit(f"{UNITS}aura-vmd.service", "User=aura", "User=root"),
    "writable by all": lambda config: config["write_files"][0].update(permissions="0666"),
    "path twice": lambda config: config["write_files"].append(config["write_files"][0]),
    "unknown owner": lambda config: config["write_files"][0].update(owner="root:caddy"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    with pytest.raises(AssertionError):
        fast_tier.check(planted(FAULTS[fault]))


def test_nothing_planted_nothing_found() -> None:
    fast_tier.check(planted(lambda config: None))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text + "\n",
        lambda text: text[:76] + "\n" + text[76:],
        lambda text: base64.b64encode(base64.b64decode(text)[:-9]).decode(),
        lambda text: gzip.decompress(base64.b64decode(text)).decode(),
        lambda text: base64.b64encode(gzip.compress(b"{}")).decode(),
    ],
    ids=["cut", "newline", "wrapped", "truncated gzip", "plain", "no first line"],
)
def test_what_cloud_init_would_ignore_is_found(damage: Callable[[str], str]) -> None:
    composed = compose(full_plan())
    with pytest.raises(AssertionError):
        fast_tier.check(dataclasses.replace(composed, user_data=damage(composed.user_data)))


def test_a_key_that_occurs_twice_is_found() -> None:
    composed = compose(full_plan())
    text = fast_tier.decode(composed.user_data)
    doubled = text.replace('{"hostname"', '{"hostname": "other", "hostname"', 1)
    with pytest.raises(AssertionError, match="duplicate"):
        fast_tier.check(with_text(composed, doubled, dict(composed.cloud_config)))
