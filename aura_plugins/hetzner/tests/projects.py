"""What is asked for in these tests, and what stands in the project beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aura_plugin_hetzner.compute import HetznerCompute

from aura_core.compute import MachineRequest

__all__ = ["TIMEOUT", "Make", "request"]

Make = Callable[..., HetznerCompute]

TIMEOUT = (5.0, 30.0)


def request(number: int = 1, **changes: Any) -> MachineRequest:
    """What the control plane asks for."""
    return MachineRequest(
        **{
            "name": f"aura-{number:032x}",
            "user_data": "H4sIAAAAAAAAA0tKLE4FAP4+iZIEAAAA",
            "labels": {"aura-instance": f"{number:032x}", "aura-agent": f"{number + 1:032x}"},
            **changes,
        }
    )
