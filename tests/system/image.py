"""A Debian root file system with everything that a machine's image has, made once and kept."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["image"]

CACHE = Path(__file__).parents[2] / ".cache/images"
# The release whose own Python is the one that the tests run with, so that its wheels work there.
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "cloud-init", "python3", "caddy", "nftables",
    "iproute2", "ca-certificates", "procps", "netbase", "openssh-server", "systemd-resolved",
)  # fmt: skip
SEED = """\
datasource_list: [NoCloud]
network: {config: disabled}
locale: C.UTF-8
"""


def image() -> Path:
    """The directory of the root file system, with the daemon of this working copy in it.

    A minute and a half the first time, a second later. Needs root and mmdebstrap.
    """
    suite = SUITES.get(sys.version_info[:2])
    assert suite is not None, f"a Debian release has one of these Pythons: {sorted(SUITES)}"
    root = CACHE / suite
    if not root.exists():
        _make(suite, root)
    _install_daemon(root / "opt/aura")
    return root


def _make(suite: str, root: Path) -> None:
    assert shutil.which("mmdebstrap"), "mmdebstrap is missing: run 'make test-system'"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    # This machine's own mirror, whatever it is.
    mirror = next(site for site in targets if "security" not in site)
    CACHE.mkdir(parents=True, exist_ok=True)
    new = root.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    subprocess.run(
        ["mmdebstrap", "--variant=apt", "--format=directory", f"--include={','.join(PACKAGES)}",
         "--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\"",
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
         suite, new, f"deb {mirror} {suite} main"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (new / "etc/cloud/cloud.cfg.d/99-test.cfg").write_text(SEED)
    (new / "etc/cloud/ds-identify.cfg").write_text("policy: enabled\n")
    (new / "etc/machine-id").write_text("")
    (new / "etc/resolv.conf").unlink(missing_ok=True)
    (new / "etc/resolv.conf").write_text("")
    for unit in ("systemd-networkd-wait-online.service", "console-getty.service"):
        (new / "etc/systemd/system" / unit).symlink_to("/dev/null")
    new.rename(root)


def _install_daemon(home: Path) -> None:
    """What an image with the daemon in it has: a virtual environment below /opt/aura."""
    shutil.rmtree(home, ignore_errors=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = home / "lib" / version / "site-packages"
    programs = home / "bin"
    site.mkdir(parents=True)
    programs.mkdir()
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (programs / "python").symlink_to("/usr/bin/python3")
    for name in sorted(_closure(["aura-vmd", "aura-plugin-local"])):
        _copy(name, site)
    for script, target in (
        ("aura-vmd", "aura_vmd.app"), ("aura-runtime-basic", "aura_plugin_local.runtime"),
    ):  # fmt: skip
        path = programs / script
        path.write_text(
            f"#!/opt/aura/bin/python -I\nimport sys\nfrom {target} import main\nsys.exit(main())\n"
        )
        path.chmod(0o755)


def _closure(names: list[str]) -> set[str]:
    """The distributions that these need, themselves included."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            if (requirement.name, extra) in found:
                continue
            found.add((requirement.name, extra))
            for line in importlib.metadata.requires(requirement.name) or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    return {name for name, _ in found}


def _copy(name: str, site: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    if name.startswith("aura-"):
        package = re.sub(r"^aura_(?=cloudinit)", "", name.replace("-", "_"))
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        source = spec.submodule_search_locations[0]
        skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "tests", "build")
        shutil.copytree(source, site / package, ignore=skipped)
        return
    for file in distribution.files or ():
        if file.parts[0] != ".." and "__pycache__" not in file.parts:
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(distribution.locate_file(file)), target)
