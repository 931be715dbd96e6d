"""What the host finds, and what it does not pay for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from aura_core.compute import HostContext
from aura_core.registry import Registry

TOKEN = {"AURA_HETZNER_TOKEN": "hc-token-0123456789"}


def registry(folder: Path, settings: dict[str, str]) -> Registry:
    return Registry.discover(context=HostContext(data_dir=folder, settings=settings))


async def test_the_host_finds_it_by_its_entry_point(tmp_path: Path) -> None:
    computes = registry(tmp_path, TOKEN).computes()
    assert computes["hetzner"].name == "Hetzner Cloud"
    await computes["hetzner"].aclose()


def test_a_wrong_setting_is_told_and_leaves_the_others(tmp_path: Path) -> None:
    found = registry(tmp_path, {**TOKEN, "AURA_HETZNER_SSH_FROM": "everybody"})
    computes = found.computes()
    assert "local" in computes
    assert "hetzner" not in computes
    (broken,) = [listing for listing in found.listings() if listing.status == "quarantined"]
    assert broken.distribution.startswith("aura-plugin-hetzner ")
    assert "AURA_HETZNER_SSH_FROM" in str(broken.reason)


def test_without_a_token_hcloud_is_not_imported() -> None:
    code = (
        "import sys, aura_plugin_hetzner as plugin\n"
        "from pathlib import Path\n"
        "from aura_core.compute import HostContext\n"
        "assert plugin.aura_computes(HostContext(data_dir=Path('.'))) == []\n"
        "print(sorted({'hcloud', 'requests'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == "[]"
