"""What is asked for in these tests, and what stands in the project beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aura_plugin_hetzner.compute import HetznerCompute

from aura_core.compute import MachineRequest
from tests.fakes.hetzner.project import Project

__all__ = ["TIMEOUT", "Make", "add_image", "request"]

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


def add_image(project: Project, name: str | None, **changes: Any) -> int:
    number = project.new_id()
    project.images[number] = {
        "id": number,
        "type": "snapshot",
        "status": "available",
        "name": name,
        "description": "",
        "image_size": 1.5,
        "disk_size": 10,
        "created": project.stamp(),
        "created_from": None,
        "bound_to": None,
        "os_flavor": "debian",
        "os_version": "12",
        "rapid_deploy": True,
        "protection": {"delete": False},
        "deprecated": None,
        "deleted": None,
        "labels": {},
        "architecture": "x86",
        **changes,
    }
    return number
