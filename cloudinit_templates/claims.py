"""What a machine's parts claim for themselves, and the refusal of what two of them claim.

Two skills that write one file, answer one path or listen on one port would work by turns, or one
could stand in the other's place. Composing refuses both names instead of choosing.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from aura_core.errors import InvalidInput
from aura_core.skills import VmCaddyRoute, by_claim
from cloudinit_templates import layout
from cloudinit_templates.plan import Plan
from cloudinit_templates.units import unit_name

__all__ = ["check_claims"]

_RESERVED_ROUTES = ("/health", "/internal/")


def check_claims(plan: Plan) -> None:
    """Raise :class:`InvalidInput` naming both sides, if two parts claim the same thing."""
    claims = _claims(plan)
    for claim, owners in sorted(claims.items()):
        if len(owners) > 1:
            raise _conflict(claim, owners[0], owners[1])
    _check_files(plan, claims)
    _check_routes(plan)


def _conflict(claim: str, one: str, other: str) -> InvalidInput:
    return InvalidInput(
        f"Both {one} and {other} claim the {claim}.",
        fields={"skills": f"{claim}: {one}, {other}"},
        hint="Disconnect one of them from this agent, or change the plugin.",
    )


def _claims(plan: Plan) -> Mapping[str, list[str]]:
    claims: dict[str, list[str]] = defaultdict(list)
    runtime = f"the runtime {plan.runtime.runtime}"
    claims[f"file {layout.SKILLS}"].append("the daemon")
    for port in {*layout.OWN_PORTS, plan.site_port} - {None}:
        claims[f"port {port}"].append("the daemon")
    for file in plan.runtime.write_files:
        claims[f"file {file.path}"].append(runtime)
    for service in plan.runtime.services:
        claims[f"unit {unit_name(service.name)}"].append(runtime)
    if plan.runtime.readiness.port is not None:
        claims[f"port {plan.runtime.readiness.port}"].append(runtime)
    for claim, skills in by_claim(plan.skills).items():
        kind, _, name = claim.partition(" ")
        # `x` and `x.service` are one unit on the machine.
        own = f"unit {unit_name(name)}" if kind == "unit" else claim
        claims[own] += [f"the skill {skill}" for skill in sorted(skills)]
    return claims


def _check_files(plan: Plan, claims: Mapping[str, list[str]]) -> None:
    owners = {
        claim.removeprefix("file "): found[0]
        for claim, found in claims.items()
        if claim.startswith("file ")
    }
    _check_nesting(owners)
    for file in plan.runtime.write_files:
        if not file.path.startswith(f"{layout.AGENT_HOME}/"):
            raise InvalidInput(f"The runtime writes {file.path!r}, outside {layout.AGENT_HOME}.")
    for skill in plan.skills:
        owner = f"the skill {skill.skill_dir_name}"
        _check_nesting(
            {file.path: owner for file in skill.write_files if not file.path.startswith("/")}
        )


def _check_nesting(owners: Mapping[str, str]) -> None:
    """A path cannot be a file for one and a folder for another."""
    for path, owner in sorted(owners.items()):
        folder = posixpath.dirname(path)
        while folder not in ("", "/"):
            if folder in owners:
                raise _conflict(f"file {folder}", owners[folder], owner)
            folder = posixpath.dirname(folder)


def _check_routes(plan: Plan) -> None:
    seen: list[tuple[str, str]] = []
    for owner, route in _routes(plan):
        # Caddy compares without case and after cleaning the path; so must this.
        path = route.match_path.lower()
        if re.search(r"//|/\.", path):
            raise InvalidInput(f"The {owner} has a route that is no plain path: {path!r}.")
        reserved = any(
            path.rstrip("*").startswith(own.rstrip("/")) or _covers(path, own)
            for own in _RESERVED_ROUTES
        )
        if reserved:
            raise _conflict(f"route {route.match_path}", "the daemon", f"the {owner}")
        for other, known in seen:
            if other != owner and (_covers(path, known) or _covers(known, path)):
                raise _conflict(f"route {route.match_path}", f"the {other}", f"the {owner}")
        seen.append((owner, path))


def _routes(plan: Plan) -> Iterable[tuple[str, VmCaddyRoute]]:
    for skill in plan.skills:
        for route in skill.caddy_routes:
            yield f"skill {skill.skill_dir_name}", route


def _covers(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.rstrip("*").startswith(pattern[:-1])
    return pattern == path
