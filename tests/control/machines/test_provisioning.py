"""An agent gets its machine, whatever happens on the way; and gives it back."""

from __future__ import annotations

from aura_core.errors import ComputeError
from tests.control.machines.conftest import World


async def test_an_agent_comes_to_run(world: World) -> None:
    agent, vm = await world.running(permissions={"scopes": ["notes:read"]})
    assert world.compute.asked == [agent["instance"]["machine_name"]]
    assert vm.held["policy"].content == {"kind": "policy", "scopes": ["notes:read"]}
    kinds = [kind for kind, _ in await world.events(agent["id"])]
    states = [k for k in kinds if k.split(".")[1] in ("requested", "provisioning", "enrolling", "running")]
    assert states == [
        "instance.requested",
        "instance.provisioning",
        "instance.enrolling",
        "instance.running",
    ]
    assert kinds.index("instance.composed") < kinds.index("instance.machine_created")
    instance = await world.instance(agent)
    assert instance.user_data_size is not None
    assert instance.user_data_size <= 32768
