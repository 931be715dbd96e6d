"""Two parts of one machine that claim the same thing are refused, and both are named."""

from __future__ import annotations

from typing import Any

import pytest

from aura_core.errors import InvalidInput
from aura_core.runtime import Readiness
from aura_core.skills import VmCaddyRoute, VmSystemdService, VmWriteFile
from cloudinit_templates import compose
from tests.cloudinit.plans import UNIT, plan, runtime, skill


def route(path: str, port: int = 19000) -> dict[str, Any]:
    return {"caddy_routes": (VmCaddyRoute(match_path=path, upstream_port=port),)}


def unit(name: str) -> dict[str, Any]:
    return {"services": (VmSystemdService(name=name, unit_file_content=UNIT),)}


def file(path: str) -> dict[str, Any]:
    return {"write_files": (VmWriteFile(path=path, content=""),)}


PAIRS = {
    "port": (route("/a"), route("/b")),
    "route": (route("/a", 19001), route("/a", 19002)),
    "route in another case": (route("/a", 19001), route("/A", 19002)),
    "route below a wild one": (route("/a*", 19001), route("/a/b", 19002)),
    "unit": (unit("sync"), unit("sync")),
    "unit with suffix": (unit("sync"), unit("sync.service")),
    "file": (file("/var/lib/agent/x"), file("/var/lib/agent/x")),
    "file as folder": (file("/var/lib/agent/x"), file("/var/lib/agent/x/y")),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_two_skills(pair: str) -> None:
    one, other = PAIRS[pair]
    with pytest.raises(InvalidInput) as caught:
        compose(plan(skills=[skill("one-skill", **one), skill("other-skill", **other)]))
    assert "one-skill" in caught.value.message
    assert "other-skill" in caught.value.message


def test_a_folder_and_a_command() -> None:
    with pytest.raises(InvalidInput, match="folder same"):
        compose(plan(skills=[skill("same", command=None), skill("same", command=None)]))
    first = skill("first").model_copy(update={"command": "mail"})
    second = skill("second").model_copy(update={"command": "mail"})
    with pytest.raises(InvalidInput, match="command mail"):
        compose(plan(skills=[first, second]))


RESERVED: dict[str, dict[str, Any]] = {
    "daemon's port": route("/a", 18790),
    "web server's administration": route("/a", 2019),
    "daemon's route by case": route("/Internal/credentials/x"),
    "daemon's route by a wild one": route("/h*"),
    "daemon's route by a deep wild one": route("/i*"),
    "health in capitals": route("/HEALTH"),
    "route that is no plain path": route("/a//b"),
    "route with a hidden segment": route("/a/./b"),
    "runtime's unit": unit("runtime.service"),
    "runtime's file": file("/var/lib/agent/runtime.json"),
    "other skills' folders": file("/var/lib/agent/skills/google/SKILL.md"),
    "skills as a file": file("/var/lib/agent/skills"),
    "file within its own file": file("SKILL.md/x"),
}


@pytest.mark.parametrize("claim", RESERVED)
def test_what_is_the_daemons_or_the_runtimes(claim: str) -> None:
    with pytest.raises(InvalidInput, match="one-skill"):
        compose(plan(skills=[skill("one-skill", **RESERVED[claim])]))


def test_the_runtimes_port() -> None:
    with pytest.raises(InvalidInput, match="port 18789"):
        compose(
            plan(
                runtime=runtime(readiness=Readiness(port=18789)),
                skills=[skill("one-skill", **route("/a", 18789))],
            )
        )
    with pytest.raises(InvalidInput, match="the daemon and the runtime"):
        compose(plan(runtime=runtime(readiness=Readiness(port=18790))))


@pytest.mark.parametrize("path", ["relative.json", "/etc/aura/skills/x"])
def test_a_runtime_writes_to_the_agents_home_alone(path: str) -> None:
    written = (VmWriteFile(path=path, content=""),)
    with pytest.raises(InvalidInput, match="runtime"):
        compose(plan(runtime=runtime(write_files=written)))


def test_neighbours_that_only_look_alike_get_along() -> None:
    composed = compose(
        plan(
            skills=[
                skill("one-skill", **route("/hooks/a", 19001), **unit("a")),
                skill("other-skill", **route("/hooks/ab", 19002), **unit("ab")),
            ]
        )
    )
    assert composed.left_to_daemon == ()
