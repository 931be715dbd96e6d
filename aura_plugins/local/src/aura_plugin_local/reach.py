"""Letting a machine's users reach the programs that they run, and nothing else on the way.

Users without a name reach only what everybody does. Where root keeps its Python, or Aura's data,
below a closed directory such as its home, they could not even start. Opening that directory is not
for us to do; so the supervisor leaves the host's mount namespace, covers the closed directory with
an empty one, and puts back in there just the folders that the machine needs: programs read-only.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aura_core.errors import ComputeError
from aura_plugin_local import kernel
from aura_plugin_local.accounts import Account

__all__ = ["closed_directories", "make_reachable", "program_folders"]

_PACKAGES = ("aura_core", "aura_vmd", "aura_plugin_local")


def program_folders() -> list[Path]:
    """Everything that this Python and Aura's packages are loaded from."""
    found = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent}
    found |= {Path(entry) for entry in sys.path if entry and Path(entry).is_dir()}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None:
            # Editable installs lie anywhere; src layouts put the package below their path.
            found |= {Path(place) for place in spec.submodule_search_locations or ()}
    return sorted({path.resolve() for path in found} | {path.absolute() for path in found})


def closed_directories(paths: Iterable[Path]) -> Mapping[Path, Sequence[Path]]:
    """The outermost directory on the way to each path that others may not pass, if there is one."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 0o001:
                closed.setdefault(folder, []).append(path)
                break
    return closed


def make_reachable(directory: Path, user: Account) -> None:
    """Let ``user`` reach the machine's directory and the programs. For root, before any thread.

    Raises :class:`ComputeError` saying what to do when that is not possible here.
    """
    closed = closed_directories([*program_folders(), directory])
    if closed:
        try:
            kernel.own_mounts()
            for cover, paths in closed.items():
                _cover(cover, paths, writable=directory)
        except OSError as error:
            raise _unreachable(sorted(closed)[0], error.strerror or str(error)) from None
    # The proof of the pudding: no list of directories knows every way a Python is put together.
    probe = subprocess.run(
        [sys.executable, "-I", "-c", "import aura_core"],
        user=user.uid, group=user.gid, extra_groups=[], env={}, cwd=directory,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        lines = probe.stderr.decode(errors="replace").strip().splitlines()
        raise _unreachable(Path(sys.executable), lines[-1] if lines else "it does not start")


def _unreachable(path: Path, reason: str) -> ComputeError:
    return ComputeError(
        f"A machine's own users cannot reach {path}: {reason}.",
        retryable=False,
        hint="Run as an ordinary user, or keep Python and AURA_DATA_DIR where others may read.",
    )


def _cover(cover: Path, paths: Sequence[Path], *, writable: Path) -> None:
    outermost = [path for path in paths if not any(p in path.parents for p in paths)]
    handles = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in outermost}
    if writable in paths and writable not in handles:
        handles[writable] = os.open(writable, os.O_PATH | os.O_DIRECTORY)
    nothing = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", str(cover), "tmpfs", nothing, "mode=0755,size=1m")
    # Short paths first: the machine's directory may lie below a folder of programs.
    for path, handle in sorted(handles.items(), key=lambda item: len(item[0].parts)):
        path.mkdir(parents=True, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{handle}", str(path), None, kernel.MS_BIND | kernel.MS_REC)
        if path != writable:
            read_only = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
            kernel.mount("none", str(path), None, read_only)
        os.close(handle)
