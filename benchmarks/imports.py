"""Whole processes that import and end, against processes that import what cannot be left out.

A skill's command line is a process for every call of the agent's, and the daemon starts at each
boot: what an import costs is paid each time. The limit is a process that imports just the
libraries that the part is built on. The clock runs from before the process is made until it has
ended, so that the interpreter's own start is in both sides.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from benchmarks.measuring import Effort, Figure, by_turns, figure

__all__ = ["measure"]

_SECONDS = 60.0

_LIGHT = (
    "import aura_core.credentials, aura_core.encoding, aura_core.errors, aura_core.permissions, "
    "aura_core.placement, aura_core.runtime, aura_core.skills, aura_core.wire"
)
_UNDER_LIGHT = (
    "from pydantic import BaseModel, SecretStr; import cryptography.hazmat.primitives.hpke, "
    "cryptography.hazmat.primitives.asymmetric.ed25519, "
    "cryptography.hazmat.primitives.asymmetric.x25519"
)

_PYDANTIC = "from pydantic import BaseModel"
_LISTING = """
import sys
from aura_control.cli import main
sys.argv[1:] = ["plugins", "list"]
main()
"""

_PAIRS = (
    ("aura_core alone", "an interpreter that does nothing", "import aura_core", "pass"),
    ("the light side", "pydantic and cryptography", _LIGHT, _UNDER_LIGHT),
    (
        "the daemon",
        "those and aiohttp",
        "import aura_vmd.app",
        f"import aiohttp.web; {_UNDER_LIGHT}",
    ),
    ("a skill's command line", "pydantic", "import aura_core.skillcli", _PYDANTIC),
    ("aura plugins list", "pydantic", _LISTING, _PYDANTIC),
)


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for each pair."""
    figures = []
    for name, limit, ours, theirs in _PAIRS:
        aura, bare = by_turns(effort.rounds, _process("-c", ours), _process("-c", theirs))
        figures.append(figure(name, limit=limit, unit="ms", aura=aura, bare=bare))
    return figures


def _process(*arguments: str) -> Callable[[], float]:
    command = [sys.executable, *arguments]

    def sample() -> float:
        began = time.perf_counter_ns()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # Not wait(timeout=...): that looks again and again, up to 50 ms apart.
        guard = threading.Timer(_SECONDS, process.kill)
        guard.start()
        try:
            status = process.wait()
        finally:
            guard.cancel()
        taken = (time.perf_counter_ns() - began) / 1e6
        if status != 0:
            raise RuntimeError(f"{' '.join(command)} ended with status {status}.")
        return taken

    return sample
